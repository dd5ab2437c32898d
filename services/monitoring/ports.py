"""What monitoring needs from outside. Each port has an in-memory twin in `adapters.memory`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.monitoring.domain.alerts import Alert, AlertState, Verdict
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.metric_tables import TableShape
from services.monitoring.domain.monitor import Monitor, PhysicalTable
from services.monitoring.domain.windows import RequestRange, StreamState, Touch, WindowRecord
from tessera_kit.bus.event import Event

__all__ = [
    "AlertChange",
    "Analytics",
    "Label",
    "MetricQuery",
    "MetricRow",
    "RowBatch",
    "Store",
    "StreamStates",
    "TableCatalog",
    "Transaction",
    "WatchedTable",
    "WindowJob",
    "WindowResult",
]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Requests that became readable in an inference table together; both ends are included."""

    requests: RequestRange
    request_ids: tuple[str, str] | None = None
    """The least and the greatest id; any when None."""


@dataclass(frozen=True, slots=True)
class WindowJob:
    """One window to compute."""

    start_us: int
    end_us: int
    revision: int
    """The revision that the computation makes."""
    requests: RequestRange | None = None
    """Where its rows are; None for everywhere."""
    before_us: int | None = None
    """The start of the window that it is compared with; None when there is none."""


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a computation found."""

    start_us: int
    row_count: int
    label_count: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """The true outcome of a request."""

    endpoint: str
    tessera_request_id: str
    """Empty when the caller's own id is given."""
    client_request_id: str
    value: float
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """Which metrics to read, and from where on."""

    metrics: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    slice_key: str = ""
    """Only this slicing column; only unsliced rows when empty."""
    start_us: int | None = None
    end_us: int | None = None
    after: MetricRow | None = None
    """The last row of the page before."""
    limit: int = 1000


@dataclass(frozen=True, slots=True, order=True)
class MetricRow:
    """One value of a metric; in the order of a listing."""

    start_us: int
    column: str
    slice_key: str
    slice_value: str
    metric: str
    drift_type: str
    end_us: int = 0
    value: float = 0.0


class Analytics(Protocol):
    """Reads watched tables and computes and keeps metrics.

    Constraints: computing the same windows again with the same revisions changes nothing that a
    reader sees; a greater revision replaces a smaller one. All raise Unavailable when the database
    does not answer.
    """

    async def table_columns(self, table: PhysicalTable) -> Mapping[str, str]:
        """Each column's type in ClickHouse's notation.

        Raises:
            TableNotReadable: There is no such table.
        """

    async def read_schema(
        self, monitor: Monitor, known: RowSchema | None, ranges: Sequence[RequestRange] | None
    ) -> RowSchema:
        """What rows of the monitor's table hold.

        Of an inference table, the inputs and outputs that some of the requests in `ranges` have
        are added to the known ones; columns keep the kind that they are known by, and else have
        that of the baseline's column of the same name. Columns that hold lists, objects or times,
        and the timestamp, are not watched.
        """

    async def compute_baseline(self, monitor: Monitor, now: datetime) -> tuple[str, ...]:
        """Describe the baseline's table, and store its profile. Once per version of the monitor.

        Returns:
            The slicing columns that the baseline is sliced by too.

        Raises:
            TableNotReadable: It has none of the watched columns.
        """

    async def touched(
        self, monitor: Monitor, schema: RowSchema, batch: RowBatch | None
    ) -> list[Touch]:
        """The windows that rows of a batch are in; of the whole table when None. By start."""

    async def count_rows(
        self, monitor: Monitor, schema: RowSchema, windows: Sequence[WindowRecord]
    ) -> dict[int, int]:
        """How many rows windows have now, by start; windows without rows are left out."""

    async def compute(
        self,
        monitor: Monitor,
        schema: RowSchema,
        jobs: Sequence[WindowJob],
        baseline_slices: Sequence[str] | None,
        now: datetime,
    ) -> list[WindowResult]:
        """Compute profile, drift and quality of windows, and store them. One result per job."""

    async def compute_quality(
        self, monitor: Monitor, schema: RowSchema, jobs: Sequence[WindowJob], now: datetime
    ) -> list[WindowResult]:
        """As `compute`, of counts and quality only."""

    async def values(
        self, monitor: Monitor, starts: Collection[int], metrics: Collection[str]
    ) -> dict[int, dict[str, dict[str, float]]]:
        """Stored values over all rows, by window start, metric and column.

        Drift is that from the baseline where the monitor has one, else from the window before.
        """

    async def list_metrics(self, monitor: Monitor, query: MetricQuery) -> list[MetricRow]:
        """Stored values, in order."""

    async def write_labels(self, labels: Sequence[Label]) -> None:
        """Keep labels; of several for one request, the one that was observed last."""

    async def windows_of_labels(
        self, monitor: Monitor, schema: RowSchema, labels: Sequence[Label]
    ) -> list[int]:
        """Starts of the windows that the labelled requests' rows are in."""

    async def clear(self, monitor: Monitor) -> None:
        """Drop what an earlier monitor of the same name left in the metric tables."""

    async def forget(self, monitor_id: str) -> None:
        """Drop what was kept for a monitor beside its metric tables."""


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A table of the catalog."""

    full_name: str
    physical: PhysicalTable
    columns: tuple[str, ...]


class TableCatalog(Protocol):
    """Asks the catalog for tables, with the rights of a caller."""

    async def get_table(self, full_name: str, token: str) -> WatchedTable:
        """Read a table's definition.

        Raises:
            NotFound: There is no such table, or the token's principal may not see it.
            TableNotReadable: Its rows are not in reach of ClickHouse.
        """

    async def ensure_table(self, full_name: str, shape: TableShape, token: str) -> WatchedTable:
        """Make a metric table unless it is there.

        Raises:
            PermissionDenied: The token's principal may not make it.
            MetricTableUnfit: A table of that name lacks one of the columns.
        """


class StreamStates(Protocol):
    """What the stream of rows made known, by monitor. May be lost: it can be rebuilt."""

    def get(self, monitor_id: str) -> StreamState | None:
        """The state; None when it is not known."""

    def put(self, monitor_id: str, state: StreamState) -> None:
        """Replace the state. Only while rows of the monitor's endpoint are handled."""


@dataclass(frozen=True, slots=True)
class AlertChange:
    """An alert as it was after its n-th change."""

    position: int
    """Grows with every change of any alert."""
    alert: Alert


class Transaction(Protocol):
    """What is stored together or not at all; nothing is before `commit`."""

    async def get_monitor(self, name: str) -> Monitor | None:
        """The monitor, locked against other writers until the end."""

    async def insert_monitor(self, monitor: Monitor, request_key: str) -> None:
        """Add a monitor.

        Args:
            monitor: The monitor.
            request_key: What makes the call idempotent; empty for nothing.

        Raises:
            MonitorExists: The name is taken.
        """

    async def update_monitor(self, monitor: Monitor, expected_etag: str) -> None:
        """Replace a monitor.

        Raises:
            StaleMonitor: Its etag is not the expected one any more.
        """

    async def delete_monitor(self, monitor: Monitor) -> None:
        """Remove a monitor with its windows, verdicts and alerts."""

    async def save_schema(
        self, monitor: Monitor, schema: RowSchema, baseline_slices: Sequence[str] | None
    ) -> None:
        """Keep what is read of the rows, and by what the baseline is sliced, for its version."""

    async def save_windows(
        self, monitor_id: str, records: Sequence[WindowRecord], *, computed: bool
    ) -> None:
        """Add or replace windows.

        Args:
            monitor_id: The monitor.
            records: The windows. `label_marks` of those that are stored stays as it is there.
            computed: Whether each is one revision ahead of what is stored, and not at the same: of
                two workers that computed a window, one wins.

        Raises:
            WindowRaced: What is stored has another revision.
        """

    async def mark_labels(self, monitor_id: str, starts: Collection[int]) -> int:
        """Note that labels came for windows that are stored; returns for how many."""

    async def save_verdict(self, monitor_id: str, rule: str, verdict: Verdict) -> None:
        """Keep a window's verdict, in place of an earlier one."""

    async def drop_verdicts(self, monitor_id: str, rule: str, start_us: int | None = None) -> None:
        """Forget a window's verdict, or all of a rule."""

    async def last_verdicts(self, monitor_id: str, rule: str, count: int) -> list[Verdict]:
        """The verdicts of the latest windows, the earliest first."""

    async def active_alert(self, monitor_id: str, rule: str) -> Alert | None:
        """The rule's alert that is firing."""

    async def save_alert(self, monitor_id: str, alert: Alert) -> None:
        """Add or replace an alert, as a change that watchers see."""

    def publish(self, event: Event) -> None:
        """Tell an event when the transaction commits."""

    async def commit(self) -> None:
        """Store everything."""


class Store(Protocol):
    """Monitors, windows and alerts. Reads see what was committed last."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin; leaving the block without `commit` drops everything."""

    async def get_monitor(self, name: str) -> Monitor | None:
        """The monitor of a name."""

    async def monitor_of_request(self, request_key: str) -> str | None:
        """The name of the monitor that an idempotent call made."""

    async def list_monitors(self, table: str, after: str, limit: int) -> list[Monitor]:
        """Monitors by name, those after a name; of one table unless it is empty."""

    async def monitors_of_table(self, table: str) -> list[Monitor]:
        """All monitors of a table."""

    async def monitors_of_endpoints(self) -> list[Monitor]:
        """All monitors of inference tables."""

    async def get_schema(self, monitor: Monitor) -> tuple[RowSchema | None, tuple[str, ...] | None]:
        """What `save_schema` kept for the monitor's version; nothing before."""

    async def list_windows(
        self, monitor_id: str, after_us: int | None, limit: int
    ) -> list[WindowRecord]:
        """Windows by start, those that start after a time."""

    async def get_windows(self, monitor_id: str, starts: Iterable[int]) -> dict[int, WindowRecord]:
        """Windows by start; those that are not stored are left out."""

    async def closed_before(self, monitor_id: str, start_us: int) -> WindowRecord | None:
        """The latest closed window with rows that starts before a time."""

    async def closed_after(self, monitor_id: str, start_us: int) -> WindowRecord | None:
        """The earliest closed window with rows that starts after a time."""

    async def dirty_windows(self) -> dict[str, list[WindowRecord]]:
        """Closed windows that labels came for since they were computed, by monitor name."""

    async def list_alerts(
        self,
        monitors: Collection[str] | None,
        states: Collection[AlertState],
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Alert]:
        """Alerts, the newest first.

        Args:
            monitors: Only alerts of these; of any when None.
            states: Only alerts in these states; in any when empty.
            before: Only alerts before a time of firing and id, in the order of the listing.
            limit: How many at most.
        """

    async def alert_changes(self, monitor_id: str, after: int, limit: int) -> list[AlertChange]:
        """Changes of a monitor's alerts, in order."""

    async def last_alert_position(self) -> int:
        """The position of the latest change; 0 before the first."""
