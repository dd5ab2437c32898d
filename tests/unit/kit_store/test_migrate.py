"""Migrations run once, in one transaction, and make the tables that the code expects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from tessera_kit.bus.tables import outbox_tables
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate_folder
from tessera_kit.store.sql import Database

ENV = "from tessera_kit.store.migrate import run_migrations\n\nrun_migrations()\n"
FIRST = """
from tessera_kit.store import bus_tables_v1

revision = "2026_11_23_first"
down_revision = None


def upgrade():
    bus_tables_v1.create()


def downgrade():
    bus_tables_v1.drop()
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_second"
down_revision = "2026_11_23_first"


def upgrade():
    op.create_table("thing", sa.Column("name", sa.String, primary_key=True))
    {after}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "100% odd" / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    (folder / "versions" / "rev_2026_11_23_first.py").write_text(FIRST)
    return folder


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'made' / 'service.db'}"


async def tables(url: str) -> dict[str, dict[str, tuple[str, bool]]]:
    async with Database(DatabaseConfig(url)) as database, database.engine.connect() as connection:
        return await connection.run_sync(describe)


def describe(connection: sa.Connection) -> dict[str, dict[str, tuple[str, bool]]]:
    inspector = sa.inspect(connection)
    return {
        table: {
            column["name"]: (str(column["type"]), bool(column["nullable"]))
            for column in inspector.get_columns(table)
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


async def test_the_frozen_tables_are_those_of_the_code(
    folder: Path, url: str, tmp_path: Path
) -> None:
    await migrate_folder(url, folder)
    declared = f"sqlite+aiosqlite:///{tmp_path / 'declared.db'}"
    metadata = sa.MetaData()
    outbox_tables(metadata)
    async with (
        Database(DatabaseConfig(declared)) as database,
        database.engine.begin() as connection,
    ):
        await connection.run_sync(metadata.create_all)
    assert await tables(url) == await tables(declared)


async def test_a_new_revision_is_added_and_running_again_does_nothing(
    folder: Path, url: str
) -> None:
    await migrate_folder(url, folder)
    (folder / "versions" / "rev_2026_11_24_second.py").write_text(SECOND.format(after=""))
    await migrate_folder(url, folder)
    await migrate_folder(url, folder)
    assert set(await tables(url)) == {"outbox", "inbox", "thing"}


async def test_a_failing_revision_leaves_nothing_behind(folder: Path, url: str) -> None:
    failing = SECOND.format(after='raise RuntimeError("half way")')
    (folder / "versions" / "rev_2026_11_24_second.py").write_text(failing)
    with pytest.raises(RuntimeError, match="half way"):
        await migrate_folder(url, folder)
    assert await tables(url) == {}


async def test_several_at_once_migrate_once(folder: Path, url: str, tmp_path: Path) -> None:
    other = f"sqlite+aiosqlite:///{tmp_path / 'other.db'}"
    await asyncio.gather(*(migrate_folder(one, folder) for one in (url, url, other, url)))
    assert set(await tables(url)) == {"outbox", "inbox"}
    assert set(await tables(other)) == {"outbox", "inbox"}
