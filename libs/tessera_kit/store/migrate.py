"""Alembic for the services: `migrate` updates a database, `run_migrations` is a whole env.py.

    # services/<service>/migrations/env.py
    from tessera_kit.store.migrate import run_migrations

    run_migrations()

Versions lie beside it in `versions/rev_YYYY_MM_DD_slug.py` and import nothing of the program but
Alembic, SQLAlchemy and the frozen `tessera_kit.store.bus_tables_v<n>`.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

__all__ = ["migrate", "run_migrations"]

# Any fixed number: two processes that migrate one PostgreSQL database take turns on it.
_ADVISORY_LOCK = 7_365_737_365_729
_alembic = threading.Lock()


async def migrate(database_url: str, service: str, *, revision: str = "head") -> None:
    """Bring a service's database to a revision; does nothing when it is there.

    Safe to call from several processes at once: one migrates, the others wait.

    Args:
        database_url: SQLAlchemy async URL; a missing SQLite file is made, with its folder.
        service: Folder name under `services/` whose `migrations` are run.
        revision: Alembic revision, `head` for the newest.

    Raises:
        alembic.util.CommandError: The revision is not known, as for a database that newer code
            migrated.
    """
    package = importlib.import_module(f"services.{service}")
    folder = Path(next(iter(package.__path__))) / "migrations"
    await migrate_folder(database_url, folder, revision=revision)


async def migrate_folder(database_url: str, folder: Path, *, revision: str = "head") -> None:
    """As `migrate`, for the folder that holds env.py and `versions`."""
    await asyncio.to_thread(_migrate_in_thread, database_url, folder, revision)


def _migrate_in_thread(database_url: str, folder: Path, revision: str) -> None:
    # Alembic keeps the running migration in globals, so one runs at a time, and off the caller's
    # loop.
    with _alembic:
        asyncio.run(_migrate(make_url(database_url), folder, revision))


async def _migrate(url: URL, folder: Path, revision: str) -> None:
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_upgrade, config, revision)
    finally:
        await engine.dispose()


def _upgrade(connection: sa.Connection, config: Config, revision: str) -> None:
    if connection.dialect.name == "sqlite":
        # WAL is a property of the file: set here once, outside a transaction. The driver must not
        # open transactions by itself, or DDL would commit in pieces.
        connection.connection.dbapi_connection.isolation_level = None  # type: ignore[union-attr]
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA busy_timeout=30000")
        connection.rollback()
        with connection.begin():
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _run(connection, config, revision)
        return
    with connection.begin():
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        _run(connection, config, revision)


def _run(connection: sa.Connection, config: Config, revision: str) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def run_migrations() -> None:
    """A service's env.py: run the migrations in the transaction that `migrate` holds."""
    connection: sa.Connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        render_as_batch=connection.dialect.name == "sqlite",
        # The caller's transaction holds the lock and commits all revisions at once.
        transaction_per_migration=False,
    )
    context.run_migrations()
