"""The store port in dictionaries. A transaction works on a copy, which its commit puts in place."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.monitoring.domain.alerts import Alert, AlertState, Verdict
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.monitor import Monitor
from services.monitoring.domain.windows import StreamState, WindowRecord, WindowState
from services.monitoring.errors import MonitorExists, StaleMonitor, WindowRaced
from services.monitoring.ports import AlertChange
from tessera_kit.bus.event import Event

__all__ = ["InMemoryStore", "InMemoryStreamStates"]

Windows = dict[tuple[str, int], WindowRecord]
Verdicts = dict[tuple[str, str, int], Verdict]


@dataclass(slots=True)
class _Tables:
    monitors: dict[str, Monitor] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    schemas: dict[tuple[str, int], tuple[RowSchema, tuple[str, ...] | None]] = field(
        default_factory=dict
    )
    windows: Windows = field(default_factory=dict)
    verdicts: Verdicts = field(default_factory=dict)
    alerts: dict[str, tuple[str, Alert]] = field(default_factory=dict)
    changes: list[tuple[str, AlertChange]] = field(default_factory=list)

    def copy(self) -> _Tables:
        """A copy that shares the frozen values."""
        return _Tables(*(copy.copy(getattr(self, name)) for name in self.__slots__))


class InMemoryStore:
    """The store without a database. `events` are those that commits told."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._writing = asyncio.Lock()
        self.events: list[Event] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[InMemoryTransaction]:
        """Begin; leaving the block without `commit` drops everything."""
        async with self._writing:
            yield InMemoryTransaction(self, self._tables.copy())

    def put(self, tables: _Tables, events: Sequence[Event]) -> None:
        """Make a transaction's work what readers see."""
        self._tables = tables
        self.events.extend(events)

    async def get_monitor(self, name: str) -> Monitor | None:
        """The monitor of a name."""
        return self._tables.monitors.get(name)

    async def monitor_of_request(self, request_key: str) -> str | None:
        """The name of the monitor that an idempotent call made."""
        return self._tables.requests.get(request_key)

    async def list_monitors(self, table: str, after: str, limit: int) -> list[Monitor]:
        """Monitors by name, those after a name; of one table unless it is empty."""
        found = [
            monitor
            for name, monitor in sorted(self._tables.monitors.items())
            if name > after and table in ("", monitor.table_full_name)
        ]
        return found[:limit]

    async def monitors_of_table(self, table: str) -> list[Monitor]:
        """All monitors of a table."""
        return await self.list_monitors(table, "", len(self._tables.monitors)) if table else []

    async def monitors_of_endpoints(self) -> list[Monitor]:
        """All monitors of inference tables."""
        every = await self.list_monitors("", "", len(self._tables.monitors))
        return [monitor for monitor in every if monitor.inference is not None]

    async def get_schema(self, monitor: Monitor) -> tuple[RowSchema | None, tuple[str, ...] | None]:
        """What `save_schema` kept for the monitor's version; nothing before."""
        return self._tables.schemas.get((monitor.id, monitor.version), (None, None))

    async def list_windows(
        self, monitor_id: str, after_us: int | None, limit: int
    ) -> list[WindowRecord]:
        """Windows by start, those that start after a time."""
        found = [
            record
            for (ident, start), record in sorted(self._tables.windows.items())
            if ident == monitor_id and (after_us is None or start > after_us)
        ]
        return found[:limit]

    async def get_windows(self, monitor_id: str, starts: Iterable[int]) -> dict[int, WindowRecord]:
        """Windows by start; those that are not stored are left out."""
        windows = self._tables.windows
        return {s: windows[monitor_id, s] for s in set(starts) if (monitor_id, s) in windows}

    async def closed_before(self, monitor_id: str, start_us: int) -> WindowRecord | None:
        """The latest closed window with rows that starts before a time."""
        found = [one for one in self._closed(monitor_id) if one.start_us < start_us]
        return max(found, key=lambda record: record.start_us, default=None)

    async def closed_after(self, monitor_id: str, start_us: int) -> WindowRecord | None:
        """The earliest closed window with rows that starts after a time."""
        found = [one for one in self._closed(monitor_id) if one.start_us > start_us]
        return min(found, key=lambda record: record.start_us, default=None)

    def _closed(self, monitor_id: str) -> list[WindowRecord]:
        return [
            record
            for (ident, _), record in self._tables.windows.items()
            if ident == monitor_id and record.state is WindowState.CLOSED and record.row_count > 0
        ]

    async def dirty_windows(self) -> dict[str, list[WindowRecord]]:
        """Closed windows that labels came for since they were computed, by monitor name."""
        names = {monitor.id: name for name, monitor in self._tables.monitors.items()}
        found: dict[str, list[WindowRecord]] = {}
        for (ident, _), record in sorted(self._tables.windows.items()):
            if record.state is WindowState.CLOSED and record.is_dirty:
                found.setdefault(names[ident], []).append(record)
        return found

    async def list_alerts(
        self,
        monitors: Collection[str] | None,
        states: Collection[AlertState],
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Alert]:
        """Alerts, the newest first."""
        found = [
            alert
            for _, alert in self._tables.alerts.values()
            if (monitors is None or alert.monitor in monitors)
            and (not states or alert.state in states)
            and (before is None or (alert.fired_at, alert.id) < before)
        ]
        return sorted(found, key=lambda alert: (alert.fired_at, alert.id), reverse=True)[:limit]

    async def alert_changes(self, monitor_id: str, after: int, limit: int) -> list[AlertChange]:
        """Changes of a monitor's alerts, in order."""
        found = [
            change
            for ident, change in self._tables.changes
            if ident == monitor_id and change.position > after
        ]
        return found[:limit]

    async def last_alert_position(self) -> int:
        """The position of the latest change; 0 before the first."""
        return len(self._tables.changes)


class InMemoryTransaction:
    """What is stored together or not at all."""

    def __init__(self, store: InMemoryStore, tables: _Tables) -> None:
        self._store = store
        self._tables = tables
        self._events: list[Event] = []

    async def get_monitor(self, name: str) -> Monitor | None:
        """The monitor."""
        return self._tables.monitors.get(name)

    async def insert_monitor(self, monitor: Monitor, request_key: str) -> None:
        """Add a monitor."""
        if monitor.name in self._tables.monitors:
            raise MonitorExists(monitor.name)
        self._tables.monitors[monitor.name] = monitor
        if request_key:
            self._tables.requests[request_key] = monitor.name

    async def update_monitor(self, monitor: Monitor, expected_etag: str) -> None:
        """Replace a monitor."""
        stored = self._tables.monitors.get(monitor.name)
        if stored is None or stored.id != monitor.id or stored.etag != expected_etag:
            raise StaleMonitor(monitor.name)
        self._tables.monitors[monitor.name] = monitor

    async def delete_monitor(self, monitor: Monitor) -> None:
        """Remove a monitor with its windows, verdicts and alerts."""
        tables, ident = self._tables, monitor.id
        tables.monitors.pop(monitor.name, None)
        tables.requests = {k: n for k, n in tables.requests.items() if n != monitor.name}
        tables.schemas = {k: v for k, v in tables.schemas.items() if k[0] != ident}
        tables.windows = {k: v for k, v in tables.windows.items() if k[0] != ident}
        tables.verdicts = {k: v for k, v in tables.verdicts.items() if k[0] != ident}
        tables.alerts = {k: v for k, v in tables.alerts.items() if v[0] != ident}

    async def save_schema(
        self, monitor: Monitor, schema: RowSchema, baseline_slices: Sequence[str] | None
    ) -> None:
        """Keep what is read of the rows, and by what the baseline is sliced, for its version."""
        slices = None if baseline_slices is None else tuple(baseline_slices)
        self._tables.schemas[monitor.id, monitor.version] = (schema, slices)

    async def save_windows(
        self, monitor_id: str, records: Sequence[WindowRecord], *, computed: bool
    ) -> None:
        """Add or replace windows."""
        for record in records:
            stored = self._tables.windows.get((monitor_id, record.start_us))
            expected = record.revision - 1 if computed else record.revision
            if (0 if stored is None else stored.revision) != expected:
                raise WindowRaced("the window was computed by another worker at the same time")
            if stored is not None:
                record = replace(record, label_marks=stored.label_marks)
            self._tables.windows[monitor_id, record.start_us] = record

    async def mark_labels(self, monitor_id: str, starts: Collection[int]) -> int:
        """Note that labels came for windows that are stored; returns for how many."""
        known = [(monitor_id, start) for start in starts if (monitor_id, start) in self._windows]
        for place in known:
            record = self._windows[place]
            self._windows[place] = replace(record, label_marks=record.label_marks + 1)
        return len(known)

    @property
    def _windows(self) -> Windows:
        return self._tables.windows

    async def save_verdict(self, monitor_id: str, rule: str, verdict: Verdict) -> None:
        """Keep a window's verdict, in place of an earlier one."""
        self._tables.verdicts[monitor_id, rule, verdict.start_us] = verdict

    async def drop_verdicts(self, monitor_id: str, rule: str, start_us: int | None = None) -> None:
        """Forget a window's verdict, or all of a rule."""
        self._tables.verdicts = {
            place: verdict
            for place, verdict in self._tables.verdicts.items()
            if place[:2] != (monitor_id, rule) or start_us not in (None, place[2])
        }

    async def last_verdicts(self, monitor_id: str, rule: str, count: int) -> list[Verdict]:
        """The verdicts of the latest windows, the earliest first."""
        found = [v for k, v in self._tables.verdicts.items() if k[:2] == (monitor_id, rule)]
        return sorted(found, key=lambda verdict: verdict.start_us)[-count:]

    async def active_alert(self, monitor_id: str, rule: str) -> Alert | None:
        """The rule's alert that is firing."""
        for ident, alert in self._tables.alerts.values():
            if (ident, alert.rule, alert.state) == (monitor_id, rule, AlertState.FIRING):
                return alert
        return None

    async def save_alert(self, monitor_id: str, alert: Alert) -> None:
        """Add or replace an alert, as a change that watchers see."""
        self._tables.alerts[alert.id] = (monitor_id, alert)
        change = AlertChange(len(self._tables.changes) + 1, alert)
        self._tables.changes.append((monitor_id, change))

    def publish(self, event: Event) -> None:
        """Tell an event when the transaction commits."""
        self._events.append(event)

    async def commit(self) -> None:
        """Store everything."""
        self._store.put(self._tables, self._events)
        self._tables, self._events = self._tables.copy(), []


class InMemoryStreamStates:
    """States in a dictionary, which a test may clear to see them rebuilt."""

    def __init__(self) -> None:
        self.states: dict[str, StreamState] = {}

    def get(self, monitor_id: str) -> StreamState | None:
        """The state; None when it is not known."""
        return self.states.get(monitor_id)

    def put(self, monitor_id: str, state: StreamState) -> None:
        """Replace the state."""
        self.states[monitor_id] = state
