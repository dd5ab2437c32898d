"""The store in SQL: views are read-only sessions, works are units of work with the outbox."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.carrier import PointCarrier
from services.tracking.adapters.sql.evaluation import SqlEvaluation, SqlScorers
from services.tracking.adapters.sql.experiments import SqlExperiments
from services.tracking.adapters.sql.metrics import SqlMetrics
from services.tracking.adapters.sql.models import SqlModels
from services.tracking.adapters.sql.purges import SqlPurges
from services.tracking.adapters.sql.reviews import SqlReviews
from services.tracking.adapters.sql.run_numbers import Narrowing
from services.tracking.adapters.sql.runs import SqlRuns
from services.tracking.adapters.sql.tables import REQUESTS
from services.tracking.adapters.sql.traces import SqlTraces
from services.tracking.adapters.sql.transaction import SqlTransaction, in_sqlite, on_connection
from services.tracking.adapters.sql.webhooks import SqlWebhooks
from services.tracking.domain.buckets import Bucket, Steps
from services.tracking.errors import StoreBusy
from services.tracking.ports.store import PointArchive
from services.tracking.ports.transaction import RequestKey, Transaction
from tessera_kit.bus.event import Event
from tessera_kit.store.sql import Database, UnitOfWork
from tessera_kit.tasks import detached_task

__all__ = ["SqlStore"]

T = TypeVar("T")


class SqlStore:
    """The store in one database, which acknowledges, and an archive, which has the old points.

    Args:
        database: The database; its tables are made by the service's migrations.
        archive: Where points are carried; `carrier` does it, and must be run.
        narrowing: When searches look at few runs; they find the same.
    """

    def __init__(
        self, database: Database, archive: PointArchive, narrowing: Narrowing | None = None
    ) -> None:
        self._database = database
        self._archive = archive
        self._narrowing = narrowing or Narrowing()
        self.carrier = PointCarrier(database, archive)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlView]:
        """Look at the store in a read-only transaction."""
        async with self._database.sessions() as session:
            yield SqlView(session, self._archive, self._narrowing)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlWork]:
        """Begin a transaction."""
        async with UnitOfWork(self._database) as unit:
            yield SqlWork(unit, self._archive, self._narrowing)

    async def transact(self, task: Callable[[Transaction], T]) -> T:
        """Run a task in the database's thread, in one transaction; return what it returns.

        A caller that is cancelled meanwhile does not take back what it began.
        """
        # And what was committed is told to those who carry it on, whoever still listens.
        return await asyncio.shield(detached_task(self._transacted(task), name="transaction"))

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        """Return a metric as buckets."""
        await self.carrier.settle([run_id])
        return await self._archive.buckets(run_id, key, steps, count)

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """Return metrics as buckets."""
        await self.carrier.settle([run_id])
        return await self._archive.curves(run_id, keys, count)

    async def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        """Return all points of runs as Arrow batches."""
        await self.carrier.settle(run_ids)
        async for batch in self._archive.export(run_ids, keys):
            yield batch

    async def forget_points(self, run_ids: Collection[str]) -> None:
        """Forget all points of runs, on the log first: none is carried behind what is deleted."""
        await self.carrier.forget(run_ids)
        await self._archive.delete(run_ids)

    async def _transacted(self, task: Callable[[Transaction], T]) -> T:
        if self._database.dialect == "sqlite":
            result, transaction = await self._in_sqlite(task)
        else:
            async with self._database.engine.begin() as connection:
                result, transaction = await connection.run_sync(on_connection, task)
        self.carrier.note(transaction.points)
        if transaction.tells:
            self._database.outbox_filled.set()
        return result

    async def _in_sqlite(self, task: Callable[[SqlTransaction], T]) -> tuple[T, SqlTransaction]:
        try:
            return await self._database.run_in_writer(lambda sqlite: in_sqlite(sqlite, task))
        except sqlite3.OperationalError as error:
            raise StoreBusy("the database is busy", retry_after=0.5) from error


class SqlView:
    """A look at the store through a session."""

    def __init__(self, session: AsyncSession, archive: PointArchive, narrowing: Narrowing) -> None:
        self._session = session
        numbers: dict[str, int] = {}
        self.experiments = SqlExperiments(session)
        self.runs = SqlRuns(session, numbers, narrowing)
        self.metrics = SqlMetrics(session, archive)
        self.traces = SqlTraces(session)
        self.evaluation = SqlEvaluation(session)
        self.scorers = SqlScorers(session)
        self.models = SqlModels(session)
        self.webhooks = SqlWebhooks(session)
        self.reviews = SqlReviews(session)
        self.purges = SqlPurges(session)

    async def result_of(self, request: RequestKey) -> str | None:
        """Return the id of what a request created; None when it created nothing yet."""
        statement = sa.select(REQUESTS.c.resource_id).where(
            REQUESTS.c.principal == request.principal,
            REQUESTS.c.method == request.method,
            REQUESTS.c.request_id == request.request_id,
        )
        return (await self._session.execute(statement)).scalar_one_or_none()


class SqlWork(SqlView):
    """A transaction."""

    def __init__(self, unit: UnitOfWork, archive: PointArchive, narrowing: Narrowing) -> None:
        super().__init__(unit.session, archive, narrowing)
        self._unit = unit

    async def claim(self, request: RequestKey, resource_id: str) -> str | None:
        """Note that a request creates a resource; return what it created before."""
        connection = await self._session.connection()
        result = await connection.exec_driver_sql(
            _CLAIM[connection.dialect.name],
            (request.principal, request.method, request.request_id, resource_id),
        )
        return None if result.rowcount else await self.result_of(request)

    async def hear(self, group: str, event_id: str) -> bool:
        """Note that a group handles an event; return whether it did not before."""
        return bool(await self._unit.claim_events(group, [event_id]))

    def publish(self, event: Event) -> None:
        """Tell an event when, and only when, this work commits."""
        self._unit.publish(event)

    async def commit(self) -> None:
        """Store everything."""
        await self._unit.commit()


_CLAIM = {
    "sqlite": "INSERT INTO requests VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "postgresql": "INSERT INTO requests VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
}
