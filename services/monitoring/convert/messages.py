"""Between the contract's messages and the domain; pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.monitoring.domain.alerts import Alert, AlertState
from services.monitoring.domain.monitor import (
    DEFAULT_SAMPLE_ROWS,
    AlertRule,
    Baseline,
    Comparison,
    InferenceProfile,
    Monitor,
    ProblemType,
    Profile,
    SnapshotProfile,
    TimeSeriesProfile,
)
from services.monitoring.domain.windows import WindowRecord, WindowState, microseconds, moment
from services.monitoring.errors import InvalidMonitor
from services.monitoring.ports import Label, MetricRow
from tessera.events.v1 import monitoring_events_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera_kit.errors import FieldViolation

__all__ = [
    "alert_message",
    "alert_state",
    "label",
    "metric_message",
    "monitor",
    "monitor_changes",
    "monitor_message",
    "time_us",
    "window_message",
]

_PROBLEMS: Final = {
    ProblemType.BINARY_CLASSIFICATION: monitor_pb2.PROBLEM_TYPE_BINARY_CLASSIFICATION,
    ProblemType.REGRESSION: monitor_pb2.PROBLEM_TYPE_REGRESSION,
}
_COMPARISONS: Final = {
    Comparison.GREATER: monitor_pb2.ALERT_COMPARISON_GREATER,
    Comparison.LESS: monitor_pb2.ALERT_COMPARISON_LESS,
}
_WINDOW_STATES: Final = {
    WindowState.OPEN: monitor_pb2.WINDOW_STATE_OPEN,
    WindowState.CLOSED: monitor_pb2.WINDOW_STATE_CLOSED,
}
_ALERT_STATES: Final = {
    AlertState.FIRING: monitor_pb2.ALERT_STATE_FIRING,
    AlertState.RESOLVED: monitor_pb2.ALERT_STATE_RESOLVED,
}
_PROBLEM_OF: Final = {number: problem for problem, number in _PROBLEMS.items()}
_COMPARISON_OF: Final = {number: comparison for comparison, number in _COMPARISONS.items()}
_ALERT_STATE_OF: Final[Mapping[int, AlertState]] = MappingProxyType(
    {number: state for state, number in _ALERT_STATES.items()}
)


def time_us(stamp: Timestamp) -> int:
    """Microseconds since 1970 of a timestamp; fractions of one are dropped."""
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


def _stamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(UTC))
    return stamp


def _stamp_us(value: int) -> Timestamp:
    return Timestamp(seconds=value // 1_000_000, nanos=value % 1_000_000 * 1000)


def _span(duration: Duration) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)


def _duration(span: timedelta) -> Duration:
    value = microseconds(span)
    return Duration(seconds=value // 1_000_000, nanos=value % 1_000_000 * 1000)


def monitor(message: monitor_pb2.Monitor) -> Monitor:
    """The settings of a monitor; what the service sets is left out.

    Raises:
        InvalidMonitor: No profile is given, or a duration is longer than time is told here.
    """
    try:
        return Monitor(
            name=message.name,
            table_full_name=message.table_full_name,
            profile=_profile(message),
            columns=tuple(message.columns),
            baseline=(
                Baseline(
                    message.baseline.table_full_name,
                    message.baseline.sample_rows or DEFAULT_SAMPLE_ROWS,
                )
                if message.HasField("baseline")
                else None
            ),
            slicing_columns=tuple(message.slicing_columns),
            alert_rules=tuple(_rule(rule) for rule in message.alert_rules),
            allowed_lateness=_span(message.allowed_lateness),
            output_schema=message.output_schema_full_name,
            etag=message.etag,
        )
    except OverflowError:
        rule = "must hold durations of at most 2,000,000 years"
        raise InvalidMonitor([FieldViolation("monitor", rule)]) from None


def monitor_changes(message: monitor_pb2.Monitor) -> Monitor:
    """As `monitor`, for a change of some fields: the profile does not change and may be absent."""
    complete = monitor_pb2.Monitor()
    complete.CopyFrom(message)
    complete.snapshot.SetInParent()
    return monitor(complete)


def _profile(message: monitor_pb2.Monitor) -> Profile:
    match message.WhichOneof("profile"):
        case "snapshot":
            return SnapshotProfile()
        case "time_series":
            series = message.time_series
            return TimeSeriesProfile(series.timestamp_column, _span(series.granularity))
        case "inference":
            inference = message.inference
            return InferenceProfile(
                inference.timestamp_column,
                _span(inference.granularity),
                _PROBLEM_OF[inference.problem_type],
                inference.prediction_column,
                inference.decision_threshold or 0.5,
            )
    rule = "must have one of snapshot, time_series and inference"
    raise InvalidMonitor([FieldViolation("monitor.profile", rule)])


def _rule(message: monitor_pb2.AlertRule) -> AlertRule:
    return AlertRule(
        name=message.name,
        metric=message.metric,
        comparison=_COMPARISON_OF[message.comparison],
        threshold=message.threshold,
        columns=tuple(message.columns),
        consecutive_windows=message.consecutive_windows or 1,
        minimum_rows=message.minimum_rows or 1,
    )


def monitor_message(value: Monitor) -> monitor_pb2.Monitor:
    """The monitor as callers see it."""
    message = monitor_pb2.Monitor(
        name=value.name,
        table_full_name=value.table_full_name,
        columns=value.columns,
        slicing_columns=value.slicing_columns,
        alert_rules=[_rule_message(rule) for rule in value.alert_rules],
        output_schema_full_name=value.metric_schema,
        profile_table_full_name=value.profile_table_full_name,
        drift_table_full_name=value.drift_table_full_name,
        created_by=value.created_by,
        etag=value.etag,
        monitor_version=value.version,
    )
    profile = value.profile
    if isinstance(profile, SnapshotProfile):
        message.snapshot.SetInParent()
    elif isinstance(profile, TimeSeriesProfile):
        message.time_series.timestamp_column = profile.timestamp_column
        message.time_series.granularity.CopyFrom(_duration(profile.granularity))
    else:
        message.inference.timestamp_column = profile.timestamp_column
        message.inference.granularity.CopyFrom(_duration(profile.granularity))
        message.inference.problem_type = _PROBLEMS[profile.problem_type]
        message.inference.prediction_column = profile.prediction_column
        message.inference.decision_threshold = profile.decision_threshold
    if value.baseline is not None:
        message.baseline.table_full_name = value.baseline.table_full_name
        message.baseline.sample_rows = value.baseline.sample_rows
    if value.allowed_lateness:
        message.allowed_lateness.CopyFrom(_duration(value.allowed_lateness))
    if value.created_at is not None:
        message.created_at.CopyFrom(_stamp(value.created_at))
    if value.updated_at is not None:
        message.updated_at.CopyFrom(_stamp(value.updated_at))
    return message


def _rule_message(rule: AlertRule) -> monitor_pb2.AlertRule:
    return monitor_pb2.AlertRule(
        name=rule.name,
        metric=rule.metric,
        columns=rule.columns,
        comparison=_COMPARISONS[rule.comparison],
        threshold=rule.threshold,
        consecutive_windows=rule.consecutive_windows,
        minimum_rows=rule.minimum_rows,
    )


def window_message(record: WindowRecord) -> monitor_pb2.Window:
    """A window as callers see it."""
    message = monitor_pb2.Window(
        start=_stamp_us(record.start_us),
        end=_stamp_us(record.end_us),
        state=_WINDOW_STATES[record.state],
        row_count=record.row_count,
        label_count=record.label_count,
        revision=record.revision,
    )
    if record.computed_at is not None:
        message.computed_at.CopyFrom(_stamp(record.computed_at))
    return message


def metric_message(row: MetricRow) -> monitor_pb2.MetricValue:
    """A metric's value as callers see it."""
    return monitor_pb2.MetricValue(
        window_start=_stamp_us(row.start_us),
        window_end=_stamp_us(row.end_us),
        metric=row.metric,
        column=row.column,
        slice_key=row.slice_key,
        slice_value=row.slice_value,
        value=row.value,
        drift_type=row.drift_type,
    )


def alert_message(alert: Alert) -> monitor_pb2.Alert:
    """An alert as callers see it."""
    message = monitor_pb2.Alert(
        alert_id=alert.id,
        monitor=alert.monitor,
        rule=alert.rule,
        state=_ALERT_STATES[alert.state],
        window_start=_stamp_us(alert.start_us),
        window_end=_stamp_us(alert.end_us),
        metric=alert.metric,
        column=alert.column,
        value=alert.value,
        threshold=alert.threshold,
        message=alert.message,
        fired_at=_stamp(alert.fired_at),
    )
    if alert.resolved_at is not None:
        message.resolved_at.CopyFrom(_stamp(alert.resolved_at))
    return message


def alert_state(number: int) -> AlertState | None:
    """The state of its number in the contract; None for UNSPECIFIED."""
    return _ALERT_STATE_OF.get(number)


def label(message: monitoring_events_pb2.LabelObserved) -> Label:
    """A label of its event."""
    return Label(
        message.endpoint,
        message.tessera_request_id,
        message.client_request_id,
        message.value,
        moment(time_us(message.observed_at)),
    )
