"""Removes bodies from the object store whose rows the inference table no longer keeps."""

from __future__ import annotations

import asyncio
import logging

from services.inference.domain.bodies import PayloadTable, body_folder, days_over
from services.inference.ports import TableReader, Tables
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.store.objects import ObjectStore
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["BodySweep"]

_log = logging.getLogger(__name__)


class BodySweep:
    """Looks at every table with a retention, and removes the bodies of whole days that are over.

    A day is over when the retention has passed and the table shows no row of it that names an
    object: the database drops rows when it merges parts, so a body is there as long as its row.
    Nothing is remembered between sweeps: one that is broken off is gone on with by the next, and
    several processes may sweep at once. A sweep costs one listing per table while nothing is over,
    and holds at most a thousand keys.

    Args:
        tables: Tells which tables there are, those of deleted endpoints too.
        reader: Tells which rows they show.
        objects: Holds the bodies.
        clock: Tells today.
        metrics: Where removed bodies are counted.
        interval_seconds: From the end of a sweep to the next.
    """

    def __init__(
        self,
        *,
        tables: Tables,
        reader: TableReader,
        objects: ObjectStore,
        clock: Clock,
        metrics: Metrics,
        interval_seconds: float,
    ) -> None:
        self._tables = tables
        self._reader = reader
        self._objects = objects
        self._clock = clock
        self._removed = metrics.counter(names.BODIES_REMOVED)
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except TesseraError as error:
                _log.warning("bodies that are over wait for their removal: %s", error)
            await asyncio.sleep(self._interval_seconds)

    async def sweep(self) -> int:
        """Go once through all tables; returns how many bodies were removed.

        Raises:
            Unavailable: The store of tables does not answer. A table whose own rows or bodies
                cannot be seen now is passed over.
        """
        removed = 0
        for place in await self._tables.expiring_tables():
            try:
                removed += await self._sweep(place)
            except TesseraError as error:
                _log.warning("bodies of %s wait for their removal: %s", place.table, error)
        return removed

    async def _sweep(self, place: PayloadTable) -> int:
        level = await self._objects.list_level(body_folder(place.endpoint_id))
        today = self._clock.now().date()
        over = days_over(level.folders, place.retention_days, today)
        if not over:
            return 0
        shown = await self._reader.days_with_bodies(place.table, sorted(over))
        removed = 0
        for day in sorted(over.keys() - shown):
            count = await self._objects.delete_prefix(over[day])
            self._removed.inc(count)
            removed += count
        if removed:
            _log.info("removed %d bodies of %s", removed, place.table.full_name)
        return removed
