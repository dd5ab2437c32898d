"""The unit of work on SQLite: all or nothing, events with the rows, one writer that queues."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from sqlalchemy.exc import OperationalError

from tessera_kit.bus.envelope import from_record
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.tables import OUTBOX, outbox_tables
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.config import ConfigError, DatabaseConfig
from tessera_kit.store.sql import Database, UnitOfWork, outbox_record

METADATA = sa.MetaData()
THING = sa.Table("thing", METADATA, sa.Column("name", sa.String, primary_key=True))
outbox_tables(METADATA)

REGISTRY = TopicRegistry(
    [Topic("test.text.v1", 1, 1, (StringValue,), "the text's owner", max_message_bytes=1000)]
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield database


def told(text: str) -> Event:
    return new_event(StringValue(value=text), source="test", key="k")


async def names(database: Database) -> list[str]:
    async with database.sessions() as session:
        return list(await session.scalars(sa.select(THING.c.name).order_by(THING.c.name)))


async def texts(database: Database) -> list[str]:
    columns = (OUTBOX.c.topic, OUTBOX.c.record_key, OUTBOX.c.value, OUTBOX.c.headers)
    async with database.sessions() as session:
        rows = await session.execute(sa.select(*columns).order_by(OUTBOX.c.position))
        return [from_record(outbox_record(row), REGISTRY).data.value for row in rows.all()]


async def test_rows_and_events_are_stored_together(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(name="a"))
        uow.publish(told("one"))
        uow.publish(told("two"))
        assert await names(database) == []
        await uow.commit()
    assert await names(database) == ["a"]
    assert await texts(database) == ["one", "two"]
    assert database.outbox_filled.is_set()


async def test_leaving_without_commit_stores_nothing(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(name="a"))
        uow.publish(told("one"))
    assert await names(database) == []
    assert await texts(database) == []
    assert not database.outbox_filled.is_set()


async def test_a_failing_commit_tells_nothing(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(name="a"))
        await uow.commit()
    with pytest.raises(sa.exc.IntegrityError):
        async with UnitOfWork(database, REGISTRY) as uow:
            uow.publish(told("one"))
            await uow.session.execute(sa.insert(THING).values(name="a"))
            await uow.commit()
    assert await texts(database) == []


async def test_one_unit_of_work_may_commit_more_than_once(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        for text in ("one", "two"):
            uow.publish(told(text))
            await uow.commit()
    assert await texts(database) == ["one", "two"]


async def test_an_event_is_claimed_once_per_group(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        assert await uow.claim_events("g", ["e1", "e3"]) == {"e1", "e3"}
        await uow.commit()
    async with UnitOfWork(database, REGISTRY) as uow:
        assert await uow.claim_events("g", ["e1", "e2", "e3"]) == {"e2"}
        assert await uow.claim_events("h", ["e1"]) == {"e1"}


async def test_many_events_are_claimed_at_once(database: Database) -> None:
    ids = [f"e{n}" for n in range(2500)]
    async with UnitOfWork(database, REGISTRY) as uow:
        assert await uow.claim_events("g", ids[::2]) == set(ids[::2])
        assert await uow.claim_events("g", ids) == set(ids[1::2])
        await uow.commit()


async def test_a_claim_that_was_rolled_back_is_free_again(database: Database) -> None:
    for _ in range(2):
        async with UnitOfWork(database, REGISTRY) as uow:
            assert await uow.claim_events("g", ["e1"]) == {"e1"}


async def test_read_then_write_by_many_at_once_never_fails_or_loses(database: Database) -> None:
    # With deferred transactions this pattern fails with SQLITE_BUSY_SNAPSHOT.
    counter = sa.Table("counter", sa.MetaData(), sa.Column("n", sa.Integer))
    async with database.engine.begin() as connection:
        await connection.run_sync(counter.metadata.create_all)
        await connection.execute(sa.insert(counter).values(n=0))

    async def increment() -> None:
        async with UnitOfWork(database, REGISTRY) as uow:
            value = await uow.session.scalar(sa.select(counter.c.n))
            assert value is not None
            await uow.session.execute(sa.update(counter).values(n=value + 1))
            await uow.commit()

    await asyncio.gather(*(increment() for _ in range(50)))
    async with database.sessions() as session:
        assert await session.scalar(sa.select(counter.c.n)) == 50


async def test_two_processes_worth_of_engines_share_one_file(
    database: Database, tmp_path: Path
) -> None:
    async with Database(DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")) as other:

        async def write(target: Database, name: str) -> None:
            async with UnitOfWork(target, REGISTRY) as uow:
                await uow.session.scalar(sa.select(sa.func.count()).select_from(THING))
                await uow.session.execute(sa.insert(THING).values(name=name))
                await uow.commit()

        await asyncio.gather(
            *(write(database, f"a{n}") for n in range(10)),
            *(write(other, f"b{n}") for n in range(10)),
        )
        assert len(await names(database)) == 20


async def test_a_cancelled_unit_of_work_hands_the_writer_back(database: Database) -> None:
    inside = asyncio.Event()

    async def hold() -> None:
        async with UnitOfWork(database, REGISTRY) as uow:
            await uow.session.execute(sa.insert(THING).values(name="a"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(name="a"))
        await uow.commit()
    assert await names(database) == ["a"]


async def test_raw_work_takes_its_turn_at_the_writer(database: Database) -> None:
    def insert(name: str, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO thing VALUES (?)", (name,))

    # The first borrows the writer from the pool, the second finds it in a transaction.
    for name in ("a", "b"):
        async with UnitOfWork(database, REGISTRY) as uow:
            await uow.session.execute(sa.insert(THING).values(name=name))
            raw = asyncio.create_task(database.run_in_writer(partial(insert, f"{name} raw")))
            await uow.session.execute(sa.insert(THING).values(name=f"{name} too"))
            assert not raw.done()
            await uow.rollback()
        await raw
    assert await names(database) == ["a raw", "b raw"]


async def test_raw_work_goes_between_transactions(database: Database) -> None:
    def count(connection: sqlite3.Connection) -> int:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO thing VALUES (?)", (str(next(numbers)),))
        [found] = connection.execute("SELECT count(*) FROM thing").fetchone()
        connection.execute("COMMIT")
        return int(found)

    async def unit() -> None:
        async with UnitOfWork(database, REGISTRY) as uow:
            await uow.session.execute(sa.insert(THING).values(name=str(next(numbers))))
            await uow.commit()

    numbers = itertools.count()
    works = [unit() if place % 3 else database.run_in_writer(count) for place in range(60)]
    await asyncio.gather(*works)
    assert len(await names(database)) == 60


async def test_raw_work_outlives_a_closed_writer(database: Database) -> None:
    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO thing VALUES ('a')")

    await database.run_in_writer(lambda connection: None)
    await database.engine.dispose()
    await database.run_in_writer(insert)
    assert await names(database) == ["a"]


async def test_raw_work_that_fails_hands_the_writer_back(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO thing VALUES ('a')")
        raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            await database.run_in_writer(fail)
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(name="b"))
        await uow.commit()
    assert await names(database) == ["b"]


async def test_readers_may_not_write(database: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        async with database.sessions() as session:
            await session.execute(sa.insert(THING).values(name="a"))


async def test_readers_see_a_snapshot_beside_an_open_writer(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        await uow.session.execute(sa.insert(THING).values(name="a"))
        assert await names(database) == []


async def test_too_large_and_undeclared_events_are_refused_when_told(database: Database) -> None:
    async with UnitOfWork(database, REGISTRY) as uow:
        with pytest.raises(ValueError, match="1000"):
            uow.publish(told("x" * 1000))
        with pytest.raises(LookupError, match="BytesValue"):
            uow.publish(new_event(BytesValue(value=b"x"), source="test", key="k"))
        await uow.commit()
    assert await texts(database) == []


async def test_a_unit_of_work_is_not_entered_twice(database: Database) -> None:
    uow = UnitOfWork(database, REGISTRY)
    with pytest.raises(RuntimeError, match="not entered"):
        _ = uow.session
    async with uow:
        with pytest.raises(RuntimeError, match="already"):
            await uow.__aenter__()


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
def test_sqlite_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be a file"):
        Database(DatabaseConfig(url))


def test_other_databases_are_refused() -> None:
    with pytest.raises(ConfigError, match="mysql"):
        Database(DatabaseConfig("mysql+aiomysql://localhost/x"))
