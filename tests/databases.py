"""Fresh databases of any service, whose migrations run once."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

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
def _postgres_database(service: str) -> str:
    return unique_name(service)


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
    """The service's database on a PostgreSQL server, migrated, without rows.

    It is one and the same for a run of tests, for which making one each would take too long: who
    asks for it again empties it.
    """
    name = _postgres_database(service)
    config = DatabaseConfig(_on(server_url, name))
    async with Database(DatabaseConfig(server_url)) as server, server.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if not await connection.scalar(known, {"name": name}):
            await connection.execute(sa.text(f"CREATE DATABASE {name}"))
            await migrate(config.url, service)
    async with Database(config) as database, database.engine.begin() as connection:
        await connection.run_sync(_empty, service)
    return config


def _empty(connection: sa.Connection, service: str) -> None:
    """Leaves of all tables' rows only what the migrations wrote."""
    written = _written(service)
    if not written:
        metadata = sa.MetaData()
        metadata.reflect(connection)
        written += [
            (table, [dict(row._mapping) for row in connection.execute(table.select())])
            for table in metadata.sorted_tables
            if table.name != "alembic_version"
        ]
        return
    names = ", ".join(table.name for table, _ in written)
    connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    for table, rows in written:
        if rows:
            connection.execute(table.insert(), rows)


@cache
def _written(service: str) -> list[tuple[sa.Table, list[dict[str, Any]]]]:
    """Every table of a service with the rows that its migrations wrote, once it was looked at."""
    return []


def _on(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)
