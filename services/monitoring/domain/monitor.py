"""Monitors: what is watched, against what, and when to tell."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.monitoring.domain.metrics import METRICS, TABLE_COLUMN, Scope
from services.monitoring.errors import InvalidMonitor
from tessera_kit.errors import FieldViolation

__all__ = [
    "METADATA_SLICES",
    "AlertRule",
    "Baseline",
    "Comparison",
    "InferenceProfile",
    "Monitor",
    "PhysicalTable",
    "ProblemType",
    "Profile",
    "SnapshotProfile",
    "TimeSeriesProfile",
    "check_monitor",
]

DEFAULT_SAMPLE_ROWS = 200_000
_LEAST_GRANULARITY = timedelta(seconds=1)

METADATA_SLICES = ("model_name", "model_version", "served_entity_id")
"""Columns of an inference table that rows may be sliced by, beside inputs and outputs."""


class ProblemType(enum.Enum):
    """How a model's outputs are judged."""

    BINARY_CLASSIFICATION = "binary_classification"
    REGRESSION = "regression"


class Comparison(enum.Enum):
    """How a metric is compared with a rule's threshold."""

    GREATER = "greater"
    LESS = "less"


@dataclass(frozen=True, slots=True)
class SnapshotProfile:
    """All rows of the table, each time that it is refreshed."""


@dataclass(frozen=True, slots=True)
class TimeSeriesProfile:
    """The rows of a table, in windows of time."""

    timestamp_column: str
    """The column that says when a row happened."""
    granularity: timedelta
    """The length of a window."""


@dataclass(frozen=True, slots=True)
class InferenceProfile:
    """The requests and responses of an endpoint, in windows of time."""

    timestamp_column: str
    """The input that says when the request's subject happened; empty for the request's time."""
    granularity: timedelta
    """The length of a window."""
    problem_type: ProblemType
    """How the prediction is judged."""
    prediction_column: str
    """The output that holds the prediction."""
    decision_threshold: float = 0.5
    """From which probability on the class is 1."""


Profile = SnapshotProfile | TimeSeriesProfile | InferenceProfile


@dataclass(frozen=True, slots=True)
class PhysicalTable:
    """Where a table's rows are in ClickHouse."""

    database: str
    """The database."""
    table: str
    """The table in it."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What windows are compared with."""

    table_full_name: str
    """A table with the watched columns."""
    sample_rows: int = DEFAULT_SAMPLE_ROWS
    """How many of its rows are used at most."""
    physical: PhysicalTable = field(default_factory=lambda: PhysicalTable("", ""))
    """Where its rows are; set by the service."""


@dataclass(frozen=True, slots=True)
class AlertRule:
    """When a window is worth telling somebody."""

    name: str
    """Unique in its monitor."""
    metric: str
    """Public name of the metric."""
    comparison: Comparison
    """How it is compared."""
    threshold: float
    """With what it is compared."""
    columns: tuple[str, ...] = ()
    """The columns to look at; all when empty."""
    consecutive_windows: int = 1
    """How many judged windows in a row must meet the rule."""
    minimum_rows: int = 1
    """How many rows a window needs to be judged."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor. Its settings are the caller's; the fields below `id` are the service's."""

    name: str
    """Unique name."""
    table_full_name: str
    """The watched table."""
    profile: Profile
    """How the rows are cut and judged."""
    columns: tuple[str, ...] = ()
    """The watched columns; all when empty."""
    baseline: Baseline | None = None
    """What windows are compared with."""
    slicing_columns: tuple[str, ...] = ()
    """Columns whose values cut the rows into slices."""
    alert_rules: tuple[AlertRule, ...] = ()
    """When to tell."""
    allowed_lateness: timedelta = timedelta(0)
    """How long after its end a window waits for late rows."""
    output_schema: str = ""
    """The schema of the metric tables; that of the watched table when empty."""

    id: str = ""
    """Never reused, unlike the name."""
    source: PhysicalTable = field(default_factory=lambda: PhysicalTable("", ""))
    """Where the watched rows are."""
    profile_table: PhysicalTable = field(default_factory=lambda: PhysicalTable("", ""))
    """Where the profile metrics are."""
    drift_table: PhysicalTable = field(default_factory=lambda: PhysicalTable("", ""))
    """Where the drift metrics are."""
    created_by: str = ""
    """The principal with whose rights tables are read."""
    created_at: datetime | None = None
    """When it was created."""
    updated_at: datetime | None = None
    """When it was last changed."""
    etag: str = ""
    """Changes with every change."""
    version: int = 1
    """Counts the changes of what is watched."""

    @property
    def metric_schema(self) -> str:
        """The schema that holds the metric tables."""
        return self.output_schema or self.table_full_name.rpartition(".")[0]

    @property
    def profile_table_full_name(self) -> str:
        """The catalog name of the table of profile metrics."""
        return f"{self.metric_schema}.{self.table_full_name.rpartition('.')[2]}_profile_metrics"

    @property
    def drift_table_full_name(self) -> str:
        """The catalog name of the table of drift metrics."""
        return f"{self.metric_schema}.{self.table_full_name.rpartition('.')[2]}_drift_metrics"

    @property
    def granularity(self) -> timedelta | None:
        """The length of a window; None for snapshots."""
        return None if isinstance(self.profile, SnapshotProfile) else self.profile.granularity

    @property
    def inference(self) -> InferenceProfile | None:
        """The profile when it is that of an inference table."""
        return self.profile if isinstance(self.profile, InferenceProfile) else None


def check_monitor(monitor: Monitor) -> None:
    """Return when the monitor's own settings make sense together.

    Raises:
        InvalidMonitor: They do not; `violations` name the fields.
    """
    violations = list(_violations(monitor))
    if violations:
        raise InvalidMonitor(violations)


def _violations(monitor: Monitor) -> Iterator[FieldViolation]:
    granularity = monitor.granularity
    if granularity is not None and granularity < _LEAST_GRANULARITY:
        kind = "inference" if monitor.inference else "time_series"
        yield FieldViolation(f"monitor.{kind}.granularity", "must be at least one second")
    if monitor.allowed_lateness < timedelta(0):
        yield FieldViolation("monitor.allowed_lateness", "must not be negative")
    if TABLE_COLUMN in monitor.columns:
        yield FieldViolation("monitor.columns", f"must not hold {TABLE_COLUMN!r}")
    for name, items in (
        ("columns", monitor.columns),
        ("slicing_columns", monitor.slicing_columns),
        ("alert_rules", tuple(rule.name for rule in monitor.alert_rules)),
    ):
        if len(set(items)) != len(items):
            yield FieldViolation(f"monitor.{name}", "must not name the same twice")
        if "" in items:
            yield FieldViolation(f"monitor.{name}", "must not hold an empty name")
    for index, rule in enumerate(monitor.alert_rules):
        yield from _rule_violations(monitor, rule, f"monitor.alert_rules[{index}]")


def _rule_violations(monitor: Monitor, rule: AlertRule, place: str) -> Iterator[FieldViolation]:
    metric = METRICS.get(rule.metric)
    if metric is None:
        known = ", ".join(METRICS)
        yield FieldViolation(f"{place}.metric", f"must be one of: {known}")
        return
    if metric.scope is Scope.COLUMN and monitor.columns:
        missing = [column for column in rule.columns if column not in monitor.columns]
        if missing:
            yield FieldViolation(f"{place}.columns", f"{missing[0]!r} is not watched")
