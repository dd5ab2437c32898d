"""Fresh databases of any service; its migrations run once, then their result is copied."""

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

__all__ = ["fresh_postgres", "fresh_sqlite"]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tessera-databases-")


@cache
def _postgres_template(service: str) -> str:
    return unique_name(f"{service}_template")


async def fresh_sqlite(folder: Path, service: str) -> DatabaseConfig:
    """An empty, migrated database of the service in `folder`."""
    template = Path(_folder().name) / f"{service}.db"
    if not template.exists():
        building = template.with_suffix(".building")
        await migrate(f"sqlite+aiosqlite:///{building}", service)
        building.rename(template)
    copy = folder / f"{service}.db"
    shutil.copyfile(template, copy)
    return DatabaseConfig(f"sqlite+aiosqlite:///{copy}")


async def fresh_postgres(server_url: str, service: str) -> DatabaseConfig:
    """An empty, migrated database of the service on a PostgreSQL server."""
    template, name = _postgres_template(service), unique_name(service)
    async with Database(DatabaseConfig(server_url)) as server, server.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if not await connection.scalar(known, {"name": template}):
            await connection.execute(sa.text(f"CREATE DATABASE {template}"))
            await migrate(_on(server_url, template), service)
        await connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return DatabaseConfig(_on(server_url, name))


def _on(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)
