"""Computes windows, keeps what came out, judges alert rules, and tells of it. Once per revision."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from services.monitoring.convert.events import alert_changed, window_closed
from services.monitoring.domain.alerts import Alert, AlertState, judge, next_alert
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.metrics import METRICS, Scope
from services.monitoring.domain.monitor import AlertRule, Monitor
from services.monitoring.domain.windows import (
    RequestRange,
    WindowRecord,
    WindowState,
    microseconds,
)
from services.monitoring.handlers.access import Access
from services.monitoring.handlers.signal import Signal
from services.monitoring.ports import Analytics, Store, Transaction, WindowJob, WindowResult
from tessera_kit.clock import Clock
from tessera_kit.ids import new_id
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["WindowComputer", "WindowOrder"]

_log = logging.getLogger(__name__)

_WINDOWS_AT_A_TIME: Final = 32
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class WindowOrder:
    """A window to compute."""

    start_us: int
    state: WindowState
    """Its state afterwards."""
    requests: RequestRange | None = None
    """Where its rows are; None when that is not known."""


class WindowComputer:
    """Computes windows of monitors. One monitor's windows are computed one batch after the other.

    Args:
        store: Monitors, windows and alerts.
        analytics: Where the statistics are computed.
        access: Whether the creator may still read the tables.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, analytics: Analytics, access: Access, clock: Clock) -> None:
        self._store = store
        self._analytics = analytics
        self._access = access
        self._clock = clock
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.alerts = Signal()
        """Changes with every alert that fires or resolves."""

    def lock(self, monitor: Monitor) -> asyncio.Lock:
        """Held by whoever looks at a monitor's windows to decide what to compute."""
        return self._locks[monitor.id]

    async def schema(
        self, monitor: Monitor, ranges: Sequence[RequestRange] | None
    ) -> tuple[RowSchema, tuple[str, ...] | None]:
        """What rows of a table hold, as known or as requests of some spans tell.

        Returns:
            The schema, and by which slicing columns the baseline is sliced; None without one.
        """
        known, baseline_slices = await self._store.get_schema(monitor)
        if baseline_slices is None and monitor.baseline is not None:
            baseline_slices = await self._analytics.compute_baseline(monitor, self._clock.now())
        schema = await self._analytics.read_schema(monitor, known, ranges)
        if schema != known and schema.columns:
            async with self._store.transaction() as work:
                if await work.get_monitor(monitor.name) is not None:
                    await work.save_schema(monitor, schema, baseline_slices)
                    await work.commit()
        return schema, baseline_slices

    async def compute(
        self, monitor: Monitor, orders: Sequence[WindowOrder], *, quality_only: bool = False
    ) -> list[WindowRecord]:
        """Compute windows and tell of them. The caller holds the monitor's lock.

        A closed window after one of them is computed too, as its drift from the window before has
        changed.

        Args:
            monitor: The monitor.
            orders: Which windows; each start once.
            quality_only: Whether only labels changed.

        Returns:
            The windows of the orders, by start.

        Raises:
            PermissionDenied: The creator may not read the tables any more.
            WindowRaced: Another process computed one of them at the same time.
        """
        await self._access.require_creator(monitor)
        done = []
        asked = {order.start_us for order in orders}
        after = [] if quality_only else await self._after(monitor, asked)
        ordered = sorted((*orders, *after), key=lambda order: order.start_us)
        for begin in range(0, len(ordered), _WINDOWS_AT_A_TIME):
            part = ordered[begin : begin + _WINDOWS_AT_A_TIME]
            done += await self._compute_part(monitor, part, quality_only)
        return [record for record in done if record.start_us in asked]

    async def _after(self, monitor: Monitor, starts: set[int]) -> list[WindowOrder]:
        """The closed windows that are compared with windows of these starts, and are not of them.

        Their own rows stay as they were, so that those after them need not be computed.
        """
        found: dict[int, WindowOrder] = {}
        for start in starts:
            after = await self._store.closed_after(monitor.id, start)
            if after is not None and after.start_us not in starts:
                found[after.start_us] = WindowOrder(after.start_us, WindowState.CLOSED)
        return list(found.values())

    async def _compute_part(
        self, monitor: Monitor, orders: Sequence[WindowOrder], quality_only: bool
    ) -> list[WindowRecord]:
        starts = [order.start_us for order in orders]
        stored = await self._store.get_windows(monitor.id, starts)
        begun = [_begun(monitor, order, stored.get(order.start_us)) for order in orders]
        ranges = [record.requests for record in begun if record.requests is not None]
        everywhere = len(ranges) < len(begun)
        schema, baseline_slices = await self.schema(monitor, None if everywhere else ranges)
        jobs = await self._jobs(monitor, begun)
        now = self._clock.now()
        if quality_only:
            results = await self._analytics.compute_quality(monitor, schema, jobs, now)
        else:
            results = await self._analytics.compute(monitor, schema, jobs, baseline_slices, now)
        records = [_computed(*pair, now) for pair in zip(begun, results, strict=True)]
        rules = [
            rule
            for rule in monitor.alert_rules
            if not quality_only or METRICS[rule.metric].scope is Scope.WINDOW
        ]
        closed = [record for record in records if record.state is WindowState.CLOSED]
        values = await self._analytics.values(
            monitor,
            [record.start_us for record in closed],
            sorted({rule.metric for rule in rules}),
        )
        await self._keep(monitor, records, rules, values)
        return records

    async def _jobs(self, monitor: Monitor, begun: Sequence[WindowRecord]) -> list[WindowJob]:
        jobs: list[WindowJob] = []
        for record in begun:
            before = await self._store.closed_before(monitor.id, record.start_us)
            candidates = [] if before is None else [before.start_us]
            candidates += [job.start_us for job in jobs[-1:]]
            jobs.append(
                WindowJob(
                    record.start_us,
                    record.end_us,
                    record.revision + 1,
                    record.requests,
                    max(candidates, default=None),
                )
            )
        return jobs

    async def _keep(
        self,
        monitor: Monitor,
        records: Sequence[WindowRecord],
        rules: Sequence[AlertRule],
        values: Mapping[int, Values],
    ) -> None:
        changed: list[Alert] = []
        async with self._store.transaction() as work:
            current = await work.get_monitor(monitor.name)
            if current is None or current.id != monitor.id:
                _log.info("monitor %s was deleted while its windows were computed", monitor.name)
                return
            await work.save_windows(monitor.id, records, computed=True)
            for record in records:
                work.publish(window_closed(monitor, record))
                if record.state is WindowState.CLOSED:
                    found = values.get(record.start_us, {})
                    changed += await self._judge(work, monitor, record, rules, found)
            await work.commit()
        counter(names.MONITOR_WINDOWS).labels(monitor.name).inc(len(records))
        for alert in changed:
            _log.warning(
                "alert %s of monitor %s: %s", alert.state.value, alert.monitor, alert.message
            )
            if alert.state is AlertState.FIRING:
                counter(names.MONITOR_ALERTS).labels(monitor.name).inc()
        if changed:
            self.alerts.notify()

    async def _judge(
        self,
        work: Transaction,
        monitor: Monitor,
        record: WindowRecord,
        rules: Sequence[AlertRule],
        values: Values,
    ) -> list[Alert]:
        changed = []
        for rule in rules:
            verdict = judge(rule, record, values.get(rule.metric, {}))
            if verdict is None:
                await work.drop_verdicts(monitor.id, rule.name, record.start_us)
                continue
            await work.save_verdict(monitor.id, rule.name, verdict)
            alert = next_alert(
                monitor=monitor.name,
                table=monitor.table_full_name,
                rule=rule,
                verdicts=await work.last_verdicts(
                    monitor.id, rule.name, max(1, rule.consecutive_windows)
                ),
                active=await work.active_alert(monitor.id, rule.name),
                now=self._clock.now(),
                new_id=new_id(),
            )
            if alert is not None:
                await work.save_alert(monitor.id, alert)
                work.publish(alert_changed(monitor, alert))
                changed.append(alert)
        return changed


def _begun(monitor: Monitor, order: WindowOrder, stored: WindowRecord | None) -> WindowRecord:
    """The window as the computation finds it."""
    span = monitor.granularity
    length = 0 if span is None else microseconds(span)
    known = stored or WindowRecord(order.start_us, order.start_us + length)
    requests = known.requests
    if order.requests is not None:
        requests = order.requests.merge(known.requests)
    return replace(known, requests=requests, state=order.state)


def _computed(begun: WindowRecord, result: WindowResult, now: datetime) -> WindowRecord:
    return replace(
        begun,
        row_count=result.row_count,
        label_count=result.label_count,
        revision=begun.revision + 1,
        computed_at=now,
        label_marks_computed=begun.label_marks,
    )
