"""Carries points from the log to the archive, in large batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from services.tracking.adapters.sql.log import unpacked
from services.tracking.adapters.sql.tables import POINT_LOG, RUNS
from services.tracking.domain.points import Points
from services.tracking.ports.store import PointArchive
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.errors import TesseraError
from tessera_kit.memory import give_back_memory
from tessera_kit.store.sql import Database
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["PointCarrier"]

_log = logging.getLogger(__name__)

_BATCH_POINTS = 50_000
_BATCH_ROWS = 20_000
_LIST = 500
_LARGE = 50_000
"""Points whose memory is worth giving back."""


class PointCarrier:
    """Moves points: stored in the archive first, then taken off the log.

    A process that dies between the two, or another one that carries at the same time, stores points
    twice, which the archive sees as once. What the archive does not take stays in the log, however
    long; memory holds one batch.

    Args:
        database: Where the log is.
        archive: Where points go.
        interval_seconds: Longest time that points lie in the log while few arrive.
        enough: Number of points from which they are not waited for any longer.
    """

    def __init__(
        self,
        database: Database,
        archive: PointArchive,
        *,
        interval_seconds: float = 5.0,
        enough: int = 100_000,
    ) -> None:
        self._database = database
        self._archive = archive
        self._interval = interval_seconds
        self._enough = enough
        self._waiting = 0
        self._since_given_back = 0
        self._many = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._carried = counter(names.TRACKING_POINTS_CARRIED)

    def note(self, points: int) -> None:
        """Tell that so many points were committed to the log."""
        self._waiting += points
        if self._waiting >= self._enough:
            self._many.set()

    async def run(self) -> None:
        """Carry until cancelled; an archive that is away is tried again and again."""
        policy = RetryPolicy(initial_seconds=0.5, budget_seconds=None)
        failures = 0
        while True:
            try:
                # What arrives meanwhile is left for the next time: a caller that logs point after
                # point would have each carried by itself, as fast as the archive takes them.
                await self.settle(())
            except TesseraError as error:
                failures += 1
                _log.warning("points wait in the log: %s", error)
                await asyncio.sleep(policy.delay(failures, 0.0) or self._interval)
                continue
            failures = 0
            await self._until_due()

    async def carry(self, run_ids: Collection[str] = ()) -> bool:
        """Carry one batch, the oldest points first, of some runs or of all.

        Returns:
            Whether there was any.

        Raises:
            TesseraError: The archive did not take it; it is still in the log.
        """
        async with self._one_at_a_time:
            rows = await self._oldest(run_ids)
            if not rows:
                return False
            await self._archive.add(await self._points_of(rows))
            await self._drop([row.log_no for row in rows])
            carried = sum(row.points for row in rows)
            self._carried.inc(carried)
            self._since_given_back += carried
        if self._since_given_back >= _LARGE:
            self._since_given_back = 0
            await asyncio.to_thread(give_back_memory)
        return True

    async def forget(self, run_ids: Collection[str]) -> None:
        """Take the points of runs off the log, and keep none of them on the way."""
        runs = sa.select(RUNS.c.run_no).where(RUNS.c.run_id.in_(sorted(run_ids)))
        async with self._one_at_a_time, self._database.engine.begin() as connection:
            await connection.execute(sa.delete(POINT_LOG).where(POINT_LOG.c.run_no.in_(runs)))

    async def settle(self, run_ids: Collection[str]) -> None:
        """Return when the archive has every point that was committed before the call.

        Args:
            run_ids: The runs whose points count; all when empty.

        Raises:
            TesseraError: The archive does not take them.
        """
        # A long list is slower to look for than what else is in the log is to carry.
        some = run_ids if len(run_ids) <= _LIST else ()
        last = await self._newest(some)
        while last and await self._is_logged(some, last):
            await self.carry(some)

    async def _until_due(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._many.wait(), self._interval)
        self._many.clear()
        self._waiting = 0

    async def _newest(self, run_ids: Collection[str]) -> int:
        newest = _logged(sa.func.max(POINT_LOG.c.log_no), run_ids=run_ids)
        async with self._database.sessions() as session:
            return await session.scalar(newest) or 0

    async def _is_logged(self, run_ids: Collection[str], last: int) -> bool:
        statement = _logged(POINT_LOG.c.log_no, run_ids=run_ids)
        async with self._database.sessions() as session:
            found = await session.execute(statement.where(POINT_LOG.c.log_no <= last).limit(1))
            return found.first() is not None

    async def _oldest(self, run_ids: Collection[str]) -> list[Any]:
        log = POINT_LOG.c
        statement = _logged(log.log_no, log.points, run_ids=run_ids)
        chosen: list[Any] = []
        weight = 0
        async with self._database.sessions() as session:
            for row in await session.execute(statement.order_by(log.log_no).limit(_BATCH_ROWS)):
                weight += row.points
                if chosen and weight > _BATCH_POINTS:
                    break
                chosen.append(row)
        return chosen

    async def _points_of(self, rows: list[Any]) -> dict[str, Points]:
        blocks: dict[str, list[Points]] = {}
        log = POINT_LOG.c
        async with self._database.sessions() as session:
            for at in range(0, len(rows), _LIST):
                numbers = [row.log_no for row in rows[at : at + _LIST]]
                statement = (
                    sa.select(RUNS.c.run_id, log["keys"], log.data)
                    .join(RUNS, RUNS.c.run_no == log.run_no)
                    .where(log.log_no.in_(numbers))
                    .order_by(log.log_no)
                )
                for run_id, keys, data in await session.execute(statement):
                    blocks.setdefault(run_id, []).append(unpacked(keys, data))
        return {run_id: Points.joined(some) for run_id, some in blocks.items()}

    async def _drop(self, numbers: list[int]) -> None:
        async with self._database.engine.begin() as connection:
            for at in range(0, len(numbers), _LIST):
                part = numbers[at : at + _LIST]
                await connection.execute(sa.delete(POINT_LOG).where(POINT_LOG.c.log_no.in_(part)))


def _logged(*columns: Any, run_ids: Collection[str]) -> sa.Select[Any]:
    statement = sa.select(*columns).select_from(POINT_LOG)
    if not run_ids:
        return statement
    runs = sa.select(RUNS.c.run_no).where(RUNS.c.run_id.in_(sorted(run_ids)))
    return statement.where(POINT_LOG.c.run_no.in_(runs))
