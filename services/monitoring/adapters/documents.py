"""Monitors, schemas and alerts as JSON documents, for the columns of a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from services.monitoring.domain.alerts import Alert, AlertState
from services.monitoring.domain.columns import Column, ColumnKind, ColumnPlace, RowSchema, TimeKind
from services.monitoring.domain.monitor import (
    AlertRule,
    Baseline,
    Comparison,
    InferenceProfile,
    Monitor,
    PhysicalTable,
    ProblemType,
    Profile,
    SnapshotProfile,
    TimeSeriesProfile,
)
from services.monitoring.domain.windows import microseconds, moment

__all__ = [
    "alert_document",
    "alert_of",
    "monitor_document",
    "monitor_of",
    "schema_document",
    "schema_of",
]

_MICROSECOND = timedelta(microseconds=1)


def monitor_document(monitor: Monitor) -> bytes:
    """The monitor's settings and places; what the database has columns for is left out."""
    return orjson.dumps(
        {
            "profile": _profile_document(monitor.profile),
            "columns": monitor.columns,
            "baseline": None
            if monitor.baseline is None
            else {
                "table": monitor.baseline.table_full_name,
                "sample_rows": monitor.baseline.sample_rows,
                "physical": _place(monitor.baseline.physical),
            },
            "slicing_columns": monitor.slicing_columns,
            "alert_rules": [_rule_document(rule) for rule in monitor.alert_rules],
            "allowed_lateness_us": microseconds(monitor.allowed_lateness),
            "output_schema": monitor.output_schema,
            "source": _place(monitor.source),
            "profile_table": _place(monitor.profile_table),
            "drift_table": _place(monitor.drift_table),
        }
    )


def monitor_of(document: bytes | str, named: Monitor) -> Monitor:
    """The monitor that `monitor_document` was given; `named` has what the columns hold."""
    data = orjson.loads(document)
    baseline = data["baseline"]
    return replace(
        named,
        profile=_profile_of(data["profile"]),
        columns=tuple(data["columns"]),
        baseline=None
        if baseline is None
        else Baseline(
            baseline["table"], baseline["sample_rows"], PhysicalTable(*baseline["physical"])
        ),
        slicing_columns=tuple(data["slicing_columns"]),
        alert_rules=tuple(_rule_of(rule) for rule in data["alert_rules"]),
        allowed_lateness=_MICROSECOND * data["allowed_lateness_us"],
        output_schema=data["output_schema"],
        source=PhysicalTable(*data["source"]),
        profile_table=PhysicalTable(*data["profile_table"]),
        drift_table=PhysicalTable(*data["drift_table"]),
    )


def _place(table: PhysicalTable) -> list[str]:
    return [table.database, table.table]


def _profile_document(profile: Profile) -> dict[str, Any]:
    if isinstance(profile, SnapshotProfile):
        return {"kind": "snapshot"}
    common = {
        "timestamp_column": profile.timestamp_column,
        "granularity_us": microseconds(profile.granularity),
    }
    if isinstance(profile, TimeSeriesProfile):
        return {"kind": "time_series", **common}
    return {
        "kind": "inference",
        **common,
        "problem_type": profile.problem_type.value,
        "prediction_column": profile.prediction_column,
        "decision_threshold": profile.decision_threshold,
    }


def _profile_of(data: Mapping[str, Any]) -> Profile:
    if data["kind"] == "snapshot":
        return SnapshotProfile()
    granularity = _MICROSECOND * data["granularity_us"]
    if data["kind"] == "time_series":
        return TimeSeriesProfile(data["timestamp_column"], granularity)
    return InferenceProfile(
        data["timestamp_column"],
        granularity,
        ProblemType(data["problem_type"]),
        data["prediction_column"],
        data["decision_threshold"],
    )


def _rule_document(rule: AlertRule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "metric": rule.metric,
        "comparison": rule.comparison.value,
        "threshold": rule.threshold,
        "columns": rule.columns,
        "consecutive_windows": rule.consecutive_windows,
        "minimum_rows": rule.minimum_rows,
    }


def _rule_of(data: Mapping[str, Any]) -> AlertRule:
    return AlertRule(
        data["name"],
        data["metric"],
        Comparison(data["comparison"]),
        data["threshold"],
        tuple(data["columns"]),
        data["consecutive_windows"],
        data["minimum_rows"],
    )


def schema_document(schema: RowSchema, baseline_slices: Sequence[str] | None) -> bytes:
    """What rows hold, and by what the baseline is sliced."""
    return orjson.dumps(
        {
            "columns": [_column(column) for column in schema.columns],
            "slices": [_column(column) for column in schema.slices],
            "timestamp": None if schema.timestamp is None else _column(schema.timestamp),
            "time_kind": schema.time_kind.value,
            "prediction": None if schema.prediction is None else _column(schema.prediction),
            "baseline_slices": None if baseline_slices is None else list(baseline_slices),
        }
    )


def schema_of(document: bytes | str) -> tuple[RowSchema, tuple[str, ...] | None]:
    """What `schema_document` was given."""
    data = orjson.loads(document)
    slices = data["baseline_slices"]
    return (
        RowSchema(
            tuple(_column_of(column) for column in data["columns"]),
            tuple(_column_of(column) for column in data["slices"]),
            None if data["timestamp"] is None else _column_of(data["timestamp"]),
            TimeKind(data["time_kind"]),
            None if data["prediction"] is None else _column_of(data["prediction"]),
        ),
        None if slices is None else tuple(slices),
    )


def _column(column: Column) -> list[str]:
    return [column.name, column.kind.value, column.place.value]


def _column_of(data: Sequence[str]) -> Column:
    name, kind, place = data
    return Column(name, ColumnKind(kind), ColumnPlace(place))


def alert_document(alert: Alert) -> bytes:
    """An alert as it is now."""
    resolved = alert.resolved_at
    return orjson.dumps(
        {
            "id": alert.id,
            "monitor": alert.monitor,
            "rule": alert.rule,
            "state": alert.state.value,
            "start_us": alert.start_us,
            "end_us": alert.end_us,
            "metric": alert.metric,
            "column": alert.column,
            "value": alert.value,
            "threshold": alert.threshold,
            "message": alert.message,
            "fired_at_us": microseconds(alert.fired_at),
            "resolved_at_us": None if resolved is None else microseconds(resolved),
        }
    )


def alert_of(document: bytes | str) -> Alert:
    """The alert that `alert_document` was given."""
    data = orjson.loads(document)
    resolved = data.pop("resolved_at_us")
    return Alert(
        state=AlertState(data.pop("state")),
        fired_at=moment(data.pop("fired_at_us")),
        resolved_at=None if resolved is None else moment(resolved),
        **data,
    )
