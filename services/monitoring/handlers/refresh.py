"""Computing windows on demand: anew, or those of a stream that has ended."""

from __future__ import annotations

from services.monitoring.domain.monitor import Monitor, SnapshotProfile
from services.monitoring.domain.windows import (
    Touch,
    WindowRecord,
    WindowState,
    microseconds,
)
from services.monitoring.handlers.access import Access
from services.monitoring.handlers.compute import WindowComputer, WindowOrder
from services.monitoring.ports import Analytics, Store
from tessera_kit.clock import Clock
from tessera_kit.rpc.identity import Principal

__all__ = ["Refresh"]


class Refresh:
    """Computes windows because somebody asks.

    Args:
        store: Monitors and windows.
        analytics: Where the rows are.
        access: Who may ask.
        computer: Computes them.
        clock: Where time comes from.
    """

    def __init__(
        self,
        store: Store,
        analytics: Analytics,
        access: Access,
        computer: WindowComputer,
        clock: Clock,
    ) -> None:
        self._store = store
        self._analytics = analytics
        self._access = access
        self._computer = computer
        self._clock = clock

    async def refresh(
        self, caller: Principal, name: str, start_us: int | None, end_us: int | None
    ) -> list[WindowRecord]:
        """Compute the windows that overlap a span, those that are still open too.

        A snapshot makes a window of now. A window of a table in time is closed when a row is later
        than its end and what lateness is allowed.
        """
        monitor = await self._access.runnable(caller, name)
        async with self._computer.lock(monitor):
            if isinstance(monitor.profile, SnapshotProfile):
                order = WindowOrder(microseconds(self._clock.now()), WindowState.CLOSED)
                return await self._computer.compute(monitor, [order])
            touches = await self._touches(monitor)
            wanted = [
                touch
                for touch in touches
                if (end_us is None or touch.start_us < end_us)
                and (start_us is None or touch.start_us + _length(monitor) > start_us)
            ]
            if not wanted:
                return []
            stored = await self._store.get_windows(monitor.id, [touch.start_us for touch in wanted])
            latest = max(touch.latest_us for touch in touches)
            orders = [
                self._order(monitor, touch, stored.get(touch.start_us), latest) for touch in wanted
            ]
            return await self._computer.compute(monitor, orders)

    async def close(self, caller: Principal, name: str) -> list[WindowRecord]:
        """Close every window with rows that is open, and compute those that rows came late for."""
        monitor = await self._access.runnable(caller, name)
        if isinstance(monitor.profile, SnapshotProfile):
            return []
        async with self._computer.lock(monitor):
            touches = await self._touches(monitor)
            stored = await self._store.get_windows(
                monitor.id, [touch.start_us for touch in touches]
            )
            orders = [
                self._order(monitor, touch, None, None)
                for touch in touches
                if not _is_settled(stored.get(touch.start_us), touch)
            ]
            return await self._computer.compute(monitor, orders) if orders else []

    async def _touches(self, monitor: Monitor) -> list[Touch]:
        schema, _ = await self._computer.schema(monitor, None)
        return await self._analytics.touched(monitor, schema, None)

    @staticmethod
    def _order(
        monitor: Monitor, touch: Touch, stored: WindowRecord | None, latest_us: int | None
    ) -> WindowOrder:
        """How to compute a window; without a latest event time it is closed in any case."""
        closed = latest_us is None or (stored is not None and stored.state is WindowState.CLOSED)
        if latest_us is not None and not closed:
            end = touch.start_us + _length(monitor)
            closed = latest_us >= end + microseconds(monitor.allowed_lateness)
        state = WindowState.CLOSED if closed else WindowState.OPEN
        return WindowOrder(
            touch.start_us, state, touch.requests if monitor.inference is not None else None
        )


def _is_settled(record: WindowRecord | None, touch: Touch) -> bool:
    return (
        record is not None
        and record.state is WindowState.CLOSED
        and record.row_count == touch.row_count
        and not record.is_dirty
    )


def _length(monitor: Monitor) -> int:
    return 0 if monitor.granularity is None else microseconds(monitor.granularity)
