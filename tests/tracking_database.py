"""Fresh databases of the tracking service; its migrations run once and are copied from then on."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tessera-tracking-")


def _url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


async def fresh_database(folder: Path) -> DatabaseConfig:
    """An empty, migrated database in `folder`."""
    template = Path(_folder().name) / "template.db"
    if not template.exists():
        building = template.with_name("building.db")
        await migrate(_url(building), "tracking")
        building.rename(template)
    copy = folder / "tracking.db"
    shutil.copyfile(template, copy)
    return DatabaseConfig(_url(copy))
