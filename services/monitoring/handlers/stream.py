"""What happens when rows became readable: windows open, the watermark moves, windows close."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.monitor import Monitor
from services.monitoring.domain.windows import (
    RequestRange,
    StreamState,
    Touch,
    WindowRecord,
    WindowState,
    microseconds,
)
from services.monitoring.handlers.compute import WindowComputer, WindowOrder
from services.monitoring.ports import Analytics, RowBatch, Store, StreamStates
from tessera_kit.bus.retry import is_retryable
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["RowObserver", "RowsWritten", "merge_batches"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowsWritten:
    """Rows of an inference table became readable."""

    table_full_name: str
    batch: RowBatch


def merge_batches(rows: Iterable[RowsWritten]) -> dict[str, RowBatch]:
    """One batch per table that holds all of its batches."""
    gathered: defaultdict[str, list[RowBatch]] = defaultdict(list)
    for written in rows:
        gathered[written.table_full_name].append(written.batch)
    merged = {}
    for table, batches in gathered.items():
        requests = batches[0].requests
        for batch in batches[1:]:
            requests = requests.merge(batch.requests)
        ids = [batch.request_ids for batch in batches if batch.request_ids is not None]
        bounds = (min(first for first, _ in ids), max(last for _, last in ids)) if ids else None
        merged[table] = RowBatch(requests, bounds if len(ids) == len(batches) else None)
    return merged


# After a start the state may lack what the last process made known just before it ended. Rows are
# looked at again from this long before the latest request that it tells of.
_LOOK_BACK_US = 3_600_000_000


class RowObserver:
    """Follows the rows of inference tables. Observing the same rows again changes nothing.

    Args:
        store: Monitors and windows.
        analytics: Where the rows are.
        states: What the stream made known so far.
        computer: Computes what is ready.
    """

    def __init__(
        self, store: Store, analytics: Analytics, states: StreamStates, computer: WindowComputer
    ) -> None:
        self._store = store
        self._analytics = analytics
        self._states = states
        self._computer = computer
        self._resumed: set[str] = set()

    async def observe(self, rows: Sequence[RowsWritten]) -> None:
        """Take note of rows, and compute the windows that are complete or that rows came late for.

        Raises:
            TesseraError: It could not be done now; nothing is lost when it is done again.
        """
        failures = []
        for table, batch in merge_batches(rows).items():
            for monitor in await self._store.monitors_of_table(table):
                if monitor.inference is None:
                    continue
                try:
                    async with self._computer.lock(monitor):
                        await self._observe(monitor, batch)
                except Exception as error:
                    # One monitor's trouble is not another's. What is pending stays so: the next
                    # rows try again.
                    failures.append(error)
                    _log.warning("monitor %s: windows are not computed: %s", monitor.name, error)
        for failure in sorted(failures, key=is_retryable, reverse=True)[:1]:
            if is_retryable(failure):
                raise failure
            counter(names.BACKGROUND_FAILURES).labels("rows").inc()

    async def _observe(self, monitor: Monitor, batch: RowBatch) -> None:
        state = self._states.get(monitor.id)
        looked_at = self._looked_at(monitor, state, batch)
        ranges = None if looked_at is None else [looked_at.requests]
        schema, _ = await self._store.get_schema(monitor)
        if schema is None:
            schema, _ = await self._computer.schema(monitor, ranges)
        touches = await self._analytics.touched(monitor, schema, looked_at)
        if not touches:
            _log.warning(
                "monitor %s: none of the new rows of %s has a time in %r",
                *(monitor.name, monitor.table_full_name, _timestamp(monitor)),
            )
        state = (state or StreamState()).observe(touches)
        stored = await self._store.get_windows(monitor.id, state.pending)
        await self._open(monitor, touches, stored)
        late, settled = await self._late(monitor, schema, state, stored)
        orders = [
            WindowOrder(start, WindowState.CLOSED, state.pending[start])
            for start in {*late, *_ready(monitor, state)} - settled
        ]
        # What is known of the open windows outlives a failure of what follows.
        self._states.put(monitor.id, state.without(settled))
        self._resumed.add(monitor.id)
        if orders:
            await self._computer.compute(monitor, orders)
            done = settled | {order.start_us for order in orders}
            self._states.put(monitor.id, state.without(done))

    def _looked_at(
        self, monitor: Monitor, state: StreamState | None, batch: RowBatch
    ) -> RowBatch | None:
        """Which rows to look at: the new ones, or also those that a lost state knew of."""
        if state is None or state.latest_request_us is None:
            return None
        if monitor.id in self._resumed:
            return batch
        begin = min(state.latest_request_us - _LOOK_BACK_US, batch.requests.first_us)
        return RowBatch(RequestRange(begin, batch.requests.last_us))

    async def _open(
        self, monitor: Monitor, touches: Sequence[Touch], stored: dict[int, WindowRecord]
    ) -> None:
        """Show windows that have their first rows."""
        length = _length(monitor)
        new = [
            WindowRecord(touch.start_us, touch.start_us + length, requests=touch.requests)
            for touch in touches
            if touch.start_us not in stored
        ]
        if not new:
            return
        async with self._store.transaction() as work:
            if await work.get_monitor(monitor.name) is None:
                return
            await work.save_windows(monitor.id, new, computed=False)
            await work.commit()

    async def _late(
        self,
        monitor: Monitor,
        schema: RowSchema,
        state: StreamState,
        stored: dict[int, WindowRecord],
    ) -> tuple[set[int], set[int]]:
        """Of the windows that are closed already: those that have other rows now, and the rest."""
        closed = [
            WindowRecord(
                record.start_us,
                record.end_us,
                row_count=record.row_count,
                requests=state.pending[record.start_us].merge(record.requests),
            )
            for record in stored.values()
            if record.state is WindowState.CLOSED
        ]
        if not closed:
            return set(), set()
        counts = await self._analytics.count_rows(monitor, schema, closed)
        late = {
            record.start_us
            for record in closed
            if counts.get(record.start_us, 0) != record.row_count
        }
        return late, {record.start_us for record in closed} - late


def _ready(monitor: Monitor, state: StreamState) -> list[int]:
    return state.ready(_length(monitor), microseconds(monitor.allowed_lateness))


def _length(monitor: Monitor) -> int:
    return 0 if monitor.granularity is None else microseconds(monitor.granularity)


def _timestamp(monitor: Monitor) -> str:
    profile = monitor.inference
    return "request_time" if profile is None else profile.timestamp_column or "request_time"
