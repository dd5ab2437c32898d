"""Fresh databases of the tracking service; its migrations run once, then their result is copied."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database
from tests.helpers import unique_name


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


@cache
def _postgres_template() -> str:
    return unique_name("tracking_template")


async def fresh_postgres(server_url: str) -> DatabaseConfig:
    """An empty, migrated database on a PostgreSQL server."""
    template, name = _postgres_template(), unique_name("tracking")
    async with Database(DatabaseConfig(server_url)) as server, server.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if not await connection.scalar(known, {"name": template}):
            await connection.execute(sa.text(f"CREATE DATABASE {template}"))
            await migrate(_on(server_url, template), "tracking")
        await connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return DatabaseConfig(_on(server_url, name))


def _on(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)
