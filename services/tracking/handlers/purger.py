"""Removes for good what is marked: points and spans, then files, then rows, in small batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

from services.tracking.convert.events import purged
from services.tracking.domain.lifecycle import micros_of
from services.tracking.domain.retention import Kind, Purge, home_of
from services.tracking.handlers.access import Access
from services.tracking.handlers.retention import Retention
from services.tracking.ports.artifacts import ArtifactStore
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["Purger"]

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 100
# Runs log meanwhile, and SQLite has one writer.
_ROWS_AT_ONCE: Final = 20
_FILES_AT_ONCE: Final = 8
_LATE: Final = timedelta(days=8)
_TRY_AGAIN: Final = timedelta(minutes=5)


class Purger:
    """Removes what is marked, and marks what was deleted for long enough.

    One process at a time should run it; two do each other no harm. Each step can be done again:
    what was removed is removed once more, which does nothing, and the note of a purge is taken off
    when all is done. So it goes on where a process that died stopped.

    Eight days after everything was removed it is looked once more for what came late: a signed URL
    may write for seven, and a transfer that began before the purge goes on until it ends.

    Args:
        store: Where rows and points are.
        spans: Where spans are.
        files: Where files are.
        access: Makes the catalog forget experiments.
        retention: Marks what is due.
        clock: Where time comes from.
        age: For how long deleted things are kept; for ever when None.
        poll_seconds: How often it looks, when nothing wakes it.
    """

    def __init__(
        self,
        store: Store,
        spans: SpanStore,
        files: ArtifactStore,
        access: Access,
        retention: Retention,
        clock: Clock,
        *,
        age: timedelta | None,
        poll_seconds: float = 10.0,
    ) -> None:
        self._store = store
        self._spans = spans
        self._files = files
        self._access = access
        self._retention = retention
        self._clock = clock
        self._age = age
        self._poll_seconds = poll_seconds
        self._purged = counter(names.TRACKING_PURGED)
        self._transfers = asyncio.Semaphore(_FILES_AT_ONCE)

    async def run(self) -> None:
        """Purge until cancelled; outages are waited out."""
        while True:
            self._retention.marked.clear()
            try:
                while await self.step():
                    pass
            except TesseraError as error:
                _log.warning("purges: trying again: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retention.marked.wait(), self._poll_seconds)

    async def step(self) -> bool:
        """Mark what is due and remove one batch; return whether there was anything to do."""
        due = 0
        if self._age is not None:
            due = await self._retention.mark_older(self._age, limit=_AT_ONCE)
        async with self._store.read() as view:
            waiting = await view.purges.waiting(micros_of(self._clock.now()), limit=_AT_ONCE)
        if not waiting:
            return bool(due)
        first = waiting[0]
        same = [one for one in waiting if one.kind is first.kind and one.is_late is first.is_late]
        batch = same[:1] if first.kind is Kind.EXPERIMENT else same
        try:
            await self._remove(batch)
        except TesseraError as error:
            _log.warning("%d purges of kind %s: trying again: %s", len(batch), first.kind, error)
            # Others may fare better meanwhile.
            await self._put_off(batch, _TRY_AGAIN, is_late=first.is_late)
        return True

    async def _remove(self, batch: Sequence[Purge]) -> None:
        kind, ids = batch[0].kind, [one.id for one in batch]
        if kind is Kind.EXPERIMENT:
            await self._remove_inside(ids[0])
        elif kind is Kind.RUN:
            await self._store.forget_points(ids)
        await asyncio.gather(*(self._remove_files(one) for one in batch))
        if batch[0].is_late:
            async with self._store.write() as work:
                await work.purges.settle(batch)
                await work.commit()
            return
        homes = {one.id: one.experiment_id for one in batch}
        await self._remove_rows(kind, ids, homes, done=batch)
        _log.info("%d things of kind %s were removed for good", len(batch), kind)

    async def _remove_files(self, purge: Purge) -> None:
        async with self._transfers:
            await self._files.remove_all(home_of(purge))

    async def _remove_inside(self, experiment_id: str) -> None:
        """Remove what an experiment holds but its files."""
        await self._access.unregister(experiment_id)
        for kind in (Kind.RUN, Kind.MODEL):
            while ids := await self._inside(kind, experiment_id):
                if kind is Kind.RUN:
                    await self._store.forget_points(ids)
                await self._remove_rows(kind, ids, dict.fromkeys(ids, experiment_id))
        await self._spans.delete_all(experiment_id)
        while True:
            async with self._store.write() as work:
                traces = await work.purges.traces_inside(experiment_id, limit=_AT_ONCE)
                await work.purges.remove_traces(traces)
                await work.commit()
            if len(traces) < _AT_ONCE:
                return

    async def _inside(self, kind: Kind, experiment_id: str) -> list[str]:
        async with self._store.read() as view:
            return await view.purges.inside(kind, experiment_id, limit=_AT_ONCE)

    async def _remove_rows(
        self,
        kind: Kind,
        ids: Collection[str],
        homes: dict[str, str],
        *,
        done: Sequence[Purge] = (),
    ) -> None:
        """Remove rows, tell of it, and note that nothing is left of purges that are done."""
        ordered = sorted(ids)
        for at in range(0, len(ordered), _ROWS_AT_ONCE):
            async with self._store.write() as work:
                removed = await work.purges.remove(kind, ordered[at : at + _ROWS_AT_ONCE])
                for thing_id in sorted(removed):
                    work.publish(purged(kind, thing_id, homes[thing_id]))
                await work.commit()
            self._purged.labels(str(kind)).inc(len(removed))
        if done:
            await self._put_off(done, _LATE, is_late=True)

    async def _put_off(self, batch: Sequence[Purge], delay: timedelta, *, is_late: bool) -> None:
        due_at = micros_of(self._clock.now() + delay)
        async with self._store.write() as work:
            await work.purges.put_off(batch, due_at, is_late=is_late)
            await work.commit()
