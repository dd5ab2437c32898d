"""The `Store` port over a SQL database and its outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog.adapters.sql.access import SqlAccess
from services.catalog.adapters.sql.entities import SqlEntities
from services.catalog.adapters.sql.lineage import SqlLineage, SqlRequests
from services.catalog.adapters.sql.tables import REVISION
from services.catalog.adapters.sql.versions import SqlVersions
from services.catalog.ports import (
    AccessRecords,
    CommittedChange,
    Entities,
    LineageEdges,
    Requests,
    Transaction,
    Versions,
)
from tessera_kit.bus.event import Event
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["SqlStore"]

_THE_ROW = 1


class SqlStore:
    """The catalog's data in SQL.

    Args:
        database: Migrated by `services/catalog/migrations`.
    """

    def __init__(self, database: Database) -> None:
        self.single_writer = database.dialect == "sqlite"
        self._database = database
        self._listeners: list[Callable[[CommittedChange], None]] = []

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Open a transaction that only reads."""
        async with self._database.sessions() as session:
            yield _Transaction(session, None, self._listeners)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Open a transaction that may write."""
        async with UnitOfWork(self._database) as uow:
            yield _Transaction(uow.session, uow, self._listeners)

    def on_commit(self, listener: Callable[[CommittedChange], None]) -> None:
        """Call `listener` after each commit that changed something for decisions."""
        self._listeners.append(listener)

    async def revision(self) -> int:
        """Grows with every commit that changed something for decisions."""
        async with self._database.sessions() as session:
            return await session.scalar(sa.select(REVISION.c.revision)) or 0


class _Transaction:
    """The `Transaction` port over one session."""

    entities: Entities
    versions: Versions
    access: AccessRecords
    lineage: LineageEdges
    requests: Requests

    def __init__(
        self,
        session: AsyncSession,
        uow: UnitOfWork | None,
        listeners: list[Callable[[CommittedChange], None]],
    ) -> None:
        self._session = session
        self._uow = uow
        self._listeners = listeners
        self._change = CommittedChange()
        self.entities = SqlEntities(session, self._change)
        self.versions = SqlVersions(session)
        self.access = SqlAccess(session, self._change)
        self.lineage = SqlLineage(session)
        self.requests = SqlRequests(session)

    def publish(self, event: Event) -> None:
        self._writer.publish(event)

    async def commit(self) -> None:
        if self._change:
            await self._session.execute(
                sa.update(REVISION)
                .where(REVISION.c.id == _THE_ROW)
                .values(revision=REVISION.c.revision + 1)
            )
        await self._writer.commit()
        if self._change:
            change = self._change.taken()
            for listener in self._listeners:
                listener(change)

    @property
    def _writer(self) -> UnitOfWork:
        if self._uow is None:
            raise RuntimeError("this transaction only reads")
        return self._uow
