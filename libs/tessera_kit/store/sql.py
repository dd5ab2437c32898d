"""A service's own database, and the unit of work that tells facts with what it writes.

The same code runs on SQLite (embedded) and PostgreSQL (cluster); only the URL differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.util import await_only, greenlet_spawn

from tessera_kit.bus.envelope import Record, to_record
from tessera_kit.bus.event import Event
from tessera_kit.bus.tables import INBOX, OUTBOX
from tessera_kit.bus.topics import REGISTRY, TopicRegistry
from tessera_kit.config import ConfigError, DatabaseConfig
from tessera_kit.store import sqlite_driver
from tessera_kit.store.sql_errors import WaitingPool, translate_errors

__all__ = ["Database", "UnitOfWork"]

T = TypeVar("T")

# One statement of constant text for any number of events: several times faster than one value list
# each.
_CLAIM = {
    "sqlite": sa.text(
        f"INSERT OR IGNORE INTO {INBOX.name} (consumer_group, event_id, handled_at) "  # noqa: S608
        "SELECT :consumer_group, value, :now FROM json_each(:event_ids) RETURNING event_id"
    ),
    "postgresql": sa.text(
        f"INSERT INTO {INBOX.name} (consumer_group, event_id, handled_at) "  # noqa: S608
        "SELECT :consumer_group, value, :now "
        "FROM json_array_elements_text(CAST(:event_ids AS json)) AS value "
        "ON CONFLICT DO NOTHING RETURNING event_id"
    ),
}
_BUSY_SECONDS = 30
_READERS = 4
_POSTGRES_CONNECTIONS = 10


class Database:
    """The engines of one database; opens nothing until it is used, and is closed by `async with`.

    On SQLite all writes of the process go through one connection (SQLite has one writer anyway, and
    a queue in memory is fairer than its busy handler), with `BEGIN IMMEDIATE`, so that a
    transaction never fails for having read first; readers have connections of their own and see the
    last commit.

    Args:
        config: `sqlite+aiosqlite:///file` or `postgresql+asyncpg://…`.

    Raises:
        ConfigError: Another kind of URL, or SQLite in memory, which readers could not share.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        url = make_url(config.url)
        self.dialect = url.get_backend_name()
        if self.dialect == "sqlite":
            self.file: Path | None = _sqlite_file(url)
            self.engine = _sqlite_engine(url, writer=True)
            self.reader = _sqlite_engine(url, writer=False)
        elif self.dialect == "postgresql":
            self.file = None
            self.engine = create_async_engine(
                url, poolclass=WaitingPool, pool_size=_POSTGRES_CONNECTIONS, pool_pre_ping=True
            )
            translate_errors(self.engine.sync_engine)
            self.reader = self.engine.execution_options(postgresql_readonly=True)
        else:
            raise ConfigError(
                f"the database must be sqlite+aiosqlite or postgresql+asyncpg, not {self.dialect}"
            )
        self.sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
            self.reader, expire_on_commit=False
        )
        """Read-only sessions: `async with database.sessions() as session`."""
        self.writers: async_sessionmaker[AsyncSession] = async_sessionmaker(
            self.engine, expire_on_commit=False
        )
        """Sessions that may write but tell no events; a UnitOfWork is built on one."""
        self._writer: sqlite_driver.SqliteConnection | None = None
        self.outbox_filled = asyncio.Event()
        """Set when a commit of this process left rows in the outbox; its relay clears it."""

    async def run_in_writer(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the thread of SQLite's one writer, with its connection; for hot paths.

        It goes around SQLAlchemy's connection, which costs as much as a small transaction, and
        around its pool while nobody has a transaction open. `work` begins and ends its transactions
        itself, and meets the driver's own errors.

        Raises:
            DatabaseUnavailable: The writer did not become free in time.
        """
        writer = self._writer
        if writer is not None and writer.is_open:
            # Whoever took the connection from the pool begins in the thread, before or after this.
            with contextlib.suppress(sqlite_driver.InTransaction):
                return await writer.run_between(work)
        return await greenlet_spawn(self._borrowing, work)

    def _borrowing(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self.engine.sync_engine.pool.connect()
        try:
            self._writer = cast("sqlite_driver.SqliteConnection", connection.driver_connection)
            return await_only(self._writer.run(work))
        finally:
            connection.close()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()
        if self.reader is not self.engine:
            await self.reader.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class UnitOfWork:
    """One transaction: what `session` writes and `publish` tells is stored together or not at all.

    Leaving the block without `commit` rolls back. On SQLite the transaction takes the process's
    only writer, so do not open a second unit of work inside it and do not wait for the network in
    it.

        async with UnitOfWork(database) as uow:
            uow.session.add(row)
            uow.publish(new_event(Created(...), source="tessera/catalog", key=row.id))
            await uow.commit()

    Args:
        database: Where it writes; its tables must hold those of `tessera_kit.bus.tables`.
        registry: Topics that events may go to.
    """

    def __init__(self, database: Database, registry: TopicRegistry = REGISTRY) -> None:
        self._database = database
        self._registry = registry
        self._session: AsyncSession | None = None
        self._records: list[Record] = []

    @property
    def session(self) -> AsyncSession:
        """The transaction's session; only inside the `async with` block."""
        if self._session is None:
            raise RuntimeError("the unit of work is not entered")
        return self._session

    def publish(self, event: Event) -> None:
        """Tell an event when, and only when, this transaction commits.

        Raises:
            LookupError: No topic carries its type.
            ValueError: It is larger than its topic takes.
        """
        self._records.append(checked_record(event, self._registry))

    async def claim_events(self, consumer_group: str, event_ids: Sequence[str]) -> set[str]:
        """Note in this transaction that a group handles events, given without repetition.

        Returns those that it did not handle before. A claim of an event that another open
        transaction has claimed waits for that one's outcome.
        """
        claimed = await self.session.scalars(
            _CLAIM[self._database.dialect],
            {
                "consumer_group": consumer_group,
                # In one order everywhere, so that two groups of claims cannot wait for each other.
                "event_ids": json.dumps(sorted(event_ids)),
                "now": int(time.time()),
            },
        )
        return set(claimed)

    async def commit(self) -> None:
        """Store everything. The block may go on with a new transaction."""
        session = self.session
        await session.flush()
        records, self._records = self._records, []
        if records:
            # Last, when the rows that the events tell of are already locked: so events of one
            # aggregate get their positions in the order in which its changes commit.
            await session.execute(sa.insert(OUTBOX), [outbox_row(record) for record in records])
        await session.commit()
        if records:
            self._database.outbox_filled.set()

    async def rollback(self) -> None:
        """Drop everything since the last commit."""
        self._records.clear()
        await self.session.rollback()

    async def __aenter__(self) -> Self:
        if self._session is not None:
            raise RuntimeError("the unit of work is entered already")
        self._session = self._database.writers()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session, self._session = self.session, None
        self._records.clear()
        # `close` rolls back; shielded, so that a cancelled caller still hands the writer back.
        await asyncio.shield(session.close())


def checked_record(event: Event, registry: TopicRegistry) -> Record:
    """The event's record.

    Raises:
        LookupError: No topic carries its type.
        ValueError: It is larger than its topic takes.
    """
    record = to_record(event, registry)
    size = record.size()
    limit = registry[record.topic].max_message_bytes
    if size > limit:
        raise ValueError(f"a {event.type} of {size} bytes; {record.topic} takes {limit}")
    return record


def outbox_row(record: Record) -> dict[str, Any]:
    """The outbox row of a record; headers are a JSON list of name and text."""
    return {
        "topic": record.topic,
        "record_key": record.key,
        "value": record.value,
        "headers": json.dumps([[name, value.decode()] for name, value in record.headers]),
    }


def outbox_record(row: Sequence[Any]) -> Record:
    """The record of an outbox row: topic, record_key, value, headers."""
    topic, key, value, headers = row
    return Record(
        topic, key, value, tuple((name, text.encode()) for name, text in json.loads(headers))
    )


def _sqlite_file(url: URL) -> Path:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError("a SQLite database must be a file: sqlite+aiosqlite:////path/to/file.db")
    return Path(url.database)


def _sqlite_engine(url: URL, *, writer: bool) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=WaitingPool,
        pool_size=1 if writer else _READERS,
        max_overflow=0,
        pool_timeout=_BUSY_SECONDS,
        connect_args={"timeout": _BUSY_SECONDS, "async_creator_fn": sqlite_driver.connect},
    )
    translate_errors(engine.sync_engine)
    begin = "BEGIN IMMEDIATE" if writer else "BEGIN"

    @sqlalchemy_event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        # None keeps the driver from opening transactions by itself; the listener below opens them.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA journal_size_limit=67108864")
        if not writer:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @sqlalchemy_event.listens_for(engine.sync_engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
