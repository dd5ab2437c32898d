"""The SQL store on PostgreSQL: the same promises as on SQLite, and those that need many writers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import Int64Value
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.memory import InMemoryBus
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate_folder
from tessera_kit.store.sole_access import sole_access
from tessera_kit.store.sql import Database, UnitOfWork
from tests.helpers import eventually, unique_name

TOPIC = "test.numbers.v1"
REGISTRY = TopicRegistry([Topic(TOPIC, 1, 1, (Int64Value,), "the number")])
ENV = "from tessera_kit.store.migrate import run_migrations\n\nrun_migrations()\n"
FIRST = """
import sqlalchemy as sa
from alembic import op
from tessera_kit.store import bus_tables_v1

revision = "first"
down_revision = None


def upgrade():
    bus_tables_v1.create()
    op.create_table("thing", sa.Column("n", sa.Integer, primary_key=True))
"""
THING = sa.Table("thing", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True))


@pytest.fixture
async def url(postgres_url: str, tmp_path: Path) -> str:
    """A migrated database of its own."""
    name = unique_name("database")
    server = Database(DatabaseConfig(postgres_url))
    async with server, server.engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text(f"CREATE DATABASE {name}"))
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    (folder / "versions" / "rev_first.py").write_text(FIRST)
    await asyncio.gather(*(migrate_folder(url, folder) for _ in range(3)))
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(DatabaseConfig(url)) as database:
        yield database


def number(n: int) -> Event:
    return new_event(Int64Value(value=n), source="test", key="k")


async def told(database: Database) -> int:
    async with database.sessions() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(OUTBOX)) or 0


async def test_rows_and_events_are_stored_together_or_not_at_all(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(n=1))
        uow.publish(number(1))
    assert await told(database) == 0
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(n=1))
        uow.publish(number(1))
        await uow.commit()
    assert await told(database) == 1


async def test_readers_may_not_write(database: Database) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        async with database.sessions() as session:
            await session.execute(sa.insert(THING).values(n=1))


@pytest.mark.parametrize("commits", [True, False])
async def test_a_second_claim_waits_for_the_outcome_of_the_first(
    database: Database, commits: bool
) -> None:
    async def second() -> set[str]:
        async with UnitOfWork(database, REGISTRY) as uow:
            return await uow.claim_events("g", ["e1", "e2"])

    async with UnitOfWork(database, REGISTRY) as uow:
        assert await uow.claim_events("g", ["e1"]) == {"e1"}
        waiting = asyncio.ensure_future(second())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        if commits:
            await uow.commit()
    assert await waiting == ({"e2"} if commits else {"e1", "e2"})


async def test_events_are_relayed_in_order_by_one_relay_at_a_time(
    database: Database, url: str
) -> None:
    bus = InMemoryBus(REGISTRY)
    async with Database(DatabaseConfig(url)) as other:
        tasks = [
            asyncio.ensure_future(OutboxRelay(one, bus, poll_seconds=0.02, batch=7).run())
            for one in (database, other)
        ]
        try:
            for n in range(150):
                async with UnitOfWork(database if n % 2 else other, REGISTRY) as uow:
                    uow.publish(number(n))
                    await uow.commit()
                if n == 70:
                    # Whichever works, the other takes over.
                    tasks[0].cancel()
                    await asyncio.wait(tasks[:1])
            await eventually(lambda: nothing_waits(database))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    seen = [event.data.value for event in bus.events(TOPIC)]  # type: ignore[attr-defined]
    assert list(dict.fromkeys(seen)) == list(range(150))
    assert len(seen) - 150 <= 7


async def test_sole_access_ends_with_its_connection(database: Database, url: str) -> None:
    async with Database(DatabaseConfig(url)) as other:
        holding = asyncio.Event()
        broken = asyncio.Event()

        async def hold() -> None:
            async with sole_access(database, "test") as access:
                holding.set()
                await broken.wait()
                async with access.read() as connection:
                    await connection.execute(sa.text("SELECT 1"))

        holder = asyncio.ensure_future(hold())
        await holding.wait()
        async with other.engine.begin() as connection:
            await connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                )
            )
        async with asyncio.timeout(10), sole_access(other, "test", poll_seconds=0.02):
            broken.set()
            with pytest.raises(Exception, match=r"not available|closed"):
                await holder


async def test_a_cancelled_statement_is_cancelled_and_no_outage(database: Database) -> None:
    async def sleep() -> None:
        async with database.sessions() as session:
            await session.execute(sa.text("SELECT pg_sleep(60)"))

    async def asleep() -> bool:
        async with database.sessions() as session:
            found = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
            return bool(await session.scalar(sa.text(found)))

    sleeping = asyncio.ensure_future(sleep())
    await eventually(asleep)
    sleeping.cancel()
    await asyncio.wait([sleeping], timeout=10)
    assert sleeping.cancelled()


async def test_an_outage_of_the_server_passes(database: Database, url: str) -> None:
    async with Database(DatabaseConfig(url)) as other:
        assert await told(database) == 0
        async with other.engine.begin() as connection:
            await connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid != pg_backend_pid()"
                )
            )
        assert await told(database) == 0


async def nothing_waits(database: Database) -> bool:
    return await told(database) == 0
