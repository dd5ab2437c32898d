"""Failures of the database that pass are in our error tree; the others keep their type."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa

from tessera_kit.bus.retry import is_retryable
from tessera_kit.config import DatabaseConfig
from tessera_kit.store import sql
from tessera_kit.store.sql import Database, UnitOfWork
from tessera_kit.store.sql_errors import DatabaseUnavailable, passes

METADATA = sa.MetaData()
THING = sa.Table("thing", METADATA, sa.Column("name", sa.String, primary_key=True))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sql, "_BUSY_SECONDS", 0.05)
    return tmp_path / "test.db"


def database_in(file: Path) -> Database:
    return Database(DatabaseConfig(f"sqlite+aiosqlite:///{file}"))


async def write(database: Database, name: str) -> None:
    async with UnitOfWork(database) as uow:
        await uow.session.execute(sa.insert(THING).values(name=name))
        await uow.commit()


async def test_a_lock_of_another_process_passes(file: Path) -> None:
    async with database_in(file) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseUnavailable) as caught:
                await write(database, "a")
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert is_retryable(caught.value)
            other.rollback()
        await write(database, "a")


async def test_a_writer_that_is_taken_for_long_passes(file: Path) -> None:
    async with database_in(file) as database, UnitOfWork(database) as uow:
        await uow.session.execute(sa.text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await write(database, "a")


async def test_a_database_that_cannot_be_opened_passes(tmp_path: Path) -> None:
    async with database_in(tmp_path / "missing" / "test.db") as database:
        with pytest.raises(DatabaseUnavailable):
            await write(database, "a")


async def test_what_stays_keeps_its_type(file: Path) -> None:
    async with database_in(file) as database:
        with pytest.raises(sa.exc.OperationalError, match="no such table") as missing:
            await write(database, "a")
        async with database.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        await write(database, "a")
        with pytest.raises(sa.exc.IntegrityError) as broken:
            await write(database, "a")
    assert not is_retryable(missing.value)
    assert not is_retryable(broken.value)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.SerializationError,
        asyncpg.DeadlockDetectedError,
        asyncpg.TooManyConnectionsError,
        asyncpg.AdminShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.LockNotAvailableError,
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.DiskFullError,
    ],
)
def test_passing_states_of_postgresql(error: type[asyncpg.PostgresError]) -> None:
    assert passes(error("from the server"))


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError,
        asyncpg.UndefinedTableError,
        asyncpg.InvalidPasswordError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.QueryCanceledError,
    ],
)
def test_lasting_states_of_postgresql(error: type[asyncpg.PostgresError]) -> None:
    assert not passes(error("from the server"))
