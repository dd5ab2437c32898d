"""Reading windows, metrics and alerts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from services.monitoring.domain.alerts import Alert, AlertState
from services.monitoring.domain.monitor import Monitor
from services.monitoring.domain.windows import WindowRecord, WindowState
from services.monitoring.errors import MonitorNotFound
from services.monitoring.handlers.access import Access
from services.monitoring.handlers.signal import Signal
from services.monitoring.ports import Analytics, MetricQuery, MetricRow, Store
from tessera_kit.rpc.identity import Principal

__all__ = ["Reports"]

_CHANGES_AT_A_TIME = 100


class Reports:
    """Answers what monitors found.

    Args:
        store: Windows and alerts.
        analytics: Metrics.
        access: Who may read.
        alerts: Changes with every alert of this process.
        poll_seconds: How often a watcher looks for alerts of other processes.
    """

    def __init__(
        self,
        store: Store,
        analytics: Analytics,
        access: Access,
        alerts: Signal,
        *,
        poll_seconds: float = 2.0,
    ) -> None:
        self._store = store
        self._analytics = analytics
        self._access = access
        self._alerts = alerts
        self._poll_seconds = poll_seconds

    async def windows(
        self, caller: Principal, name: str, after_us: int | None, limit: int
    ) -> list[WindowRecord]:
        """Windows by start, those after a time; open ones with the rows that they have now."""
        monitor = await self._access.readable(caller, name)
        records = await self._store.list_windows(monitor.id, after_us, limit)
        return await self._counted(monitor, records)

    async def _counted(
        self, monitor: Monitor, records: Sequence[WindowRecord]
    ) -> list[WindowRecord]:
        still_open = [record for record in records if record.state is WindowState.OPEN]
        schema, _ = await self._store.get_schema(monitor)
        if not still_open or schema is None:
            return list(records)
        # New rows may lie outside of what is kept of an open window.
        anywhere = [replace(record, requests=None) for record in still_open]
        counts = await self._analytics.count_rows(monitor, schema, anywhere)
        return [
            replace(record, row_count=counts.get(record.start_us, record.row_count))
            if record.state is WindowState.OPEN
            else record
            for record in records
        ]

    async def metrics(self, caller: Principal, name: str, query: MetricQuery) -> list[MetricRow]:
        """Stored values, in order."""
        monitor = await self._access.readable(caller, name)
        return await self._analytics.list_metrics(monitor, query)

    async def alerts(
        self,
        caller: Principal,
        monitor: str,
        states: Collection[AlertState],
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Alert]:
        """Alerts of one monitor, or of all that the caller may read when its name is empty."""
        if monitor:
            await self._access.readable(caller, monitor)
            return await self._store.list_alerts([monitor], states, before, limit)
        found: list[Alert] = []
        readable: dict[str, bool] = {}
        while True:
            page = await self._store.list_alerts(None, states, before, limit)
            for alert in page:
                if alert.monitor not in readable:
                    readable[alert.monitor] = await self._access.may_read(caller, alert.monitor)
                if readable[alert.monitor]:
                    found.append(alert)
                    if len(found) == limit:
                        return found
            if len(page) < limit:
                return found
            before = (page[-1].fired_at, page[-1].id)

    async def watch(self, caller: Principal, name: str) -> AsyncIterator[Alert]:
        """The monitor's alerts that are firing, then every change of any, until it is deleted."""
        monitor = await self._access.readable(caller, name)
        position = await self._store.last_alert_position()
        for alert in await self._store.list_alerts([name], [AlertState.FIRING], None, 1000):
            yield alert
        while True:
            turn = self._alerts.turn
            changes = await self._store.alert_changes(monitor.id, position, _CHANGES_AT_A_TIME)
            for change in changes:
                position = change.position
                yield change.alert
            if changes:
                continue
            await Signal.wait(turn, self._poll_seconds)
            # Rights may have been taken away, and the monitor may be gone.
            if (await self._access.readable(caller, name)).id != monitor.id:
                raise MonitorNotFound(name)
