"""Fills a monitor's two metric tables, and reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from services.monitoring.adapters.clickhouse.engine import Query, quote
from services.monitoring.adapters.clickhouse.profile import BASELINE, COLUMN_PROFILES, INPUT
from services.monitoring.domain.metrics import (
    DRIFT_METRICS,
    METRICS,
    PROFILE_METRICS,
    TABLE_COLUMN,
    DriftType,
    Metric,
    MetricTable,
    Scope,
)
from services.monitoring.domain.monitor import Monitor, PhysicalTable
from services.monitoring.domain.windows import microseconds
from services.monitoring.ports import MetricQuery

__all__ = [
    "drift_insert",
    "metrics_select",
    "profile_insert_select",
    "values_select",
    "window_rows",
]


def granularity_words(span: timedelta | None) -> str:
    """The length of a window in words: "5 minutes", "1 day"."""
    if span is None:
        return "snapshot"
    for unit, length in _UNITS:
        count = span / length
        if count >= 1 and count == int(count):
            return f"{int(count)} {unit}{'' if count == 1 else 's'}"
    return f"{span.total_seconds():g} seconds"


_UNITS: Final = (
    ("week", timedelta(weeks=1)),
    ("day", timedelta(days=1)),
    ("hour", timedelta(hours=1)),
    ("minute", timedelta(minutes=1)),
    ("second", timedelta(seconds=1)),
)


def _place(table: PhysicalTable) -> str:
    return f"{quote(table.database)}.{quote(table.table)}"


def _time(column: str) -> str:
    return f"fromUnixTimestamp64Micro({column}, 'UTC')"


def _common(monitor: Monitor, now: datetime) -> tuple[dict[str, str], dict[str, Any]]:
    """What every row of the monitor has alike."""
    return (
        {
            "monitor_name": "{monitor_name:String}",
            "monitor_version": "{monitor_version:Int64}",
            "window_start": _time("window_start"),
            "window_end": _time("window_end"),
            "granularity": "{granularity:String}",
            "slice_key": "slice_key",
            "slice_value": "slice_value",
            "column_name": "column_name",
            "data_type": "data_type",
            "computed_at": _time("{now:Int64}"),
        },
        {
            "monitor_name": monitor.name,
            "monitor_version": monitor.version,
            "granularity": granularity_words(monitor.granularity),
            "now": microseconds(now),
            "monitor_id": monitor.id,
        },
    )


def _percent(part: str) -> str:
    return f"100 * {part} / row_count"


_OF_PROFILES: Final = {
    "revision": "revision",
    "log_type": "log_type",
    "row_count": "row_count",
    "count": "count",
    "num_nulls": "row_count - count",
    "num_nan": "num_nan",
    "num_zeros": "num_zeros",
    "distinct_count": "distinct_count",
    "avg": "avg",
    "min": "min",
    "max": "max",
    "stddev": "stddev",
    "median": "if(empty(quantiles), NULL, quantiles[501])",
    "min_length": "min_length",
    "max_length": "max_length",
    "avg_length": "avg_length",
    "percent_null": _percent("(row_count - count)"),
    "percent_nan": _percent("num_nan"),
    "percent_zeros": _percent("num_zeros"),
    "percent_distinct": _percent("distinct_count"),
    "quantiles": "quantiles",
    "frequent_items": "frequent_items",
    "frequent_counts": "frequent_counts",
}


def profile_insert_select(
    database: str, monitor: Monitor, revisions: Mapping[int, int], now: datetime, *, baseline: bool
) -> Query:
    """The INSERT of column profiles into the monitor's table of profile metrics."""
    columns, parameters = _common(monitor, now)
    columns |= _OF_PROFILES
    return Query(
        f"INSERT INTO {_place(monitor.profile_table)} ({', '.join(columns)}) "
        f"SELECT {', '.join(columns.values())} FROM {quote(database)}.{COLUMN_PROFILES} "
        "WHERE monitor_id = {monitor_id:String} AND log_type = {log_type:String} "
        "AND window_start IN {starts:Array(Int64)} AND revision = "
        "transform(window_start, {starts:Array(Int64)}, {revisions:Array(Int64)}, toInt64(0))",
        {
            **parameters,
            "log_type": BASELINE if baseline else INPUT,
            "starts": list(revisions),
            "revisions": list(revisions.values()),
        },
    )


def drift_insert(
    monitor: Monitor, drift: Query, scope: Scope, revisions: Mapping[int, int], now: datetime
) -> Query:
    """The INSERT of drift of a scope into the monitor's table of drift metrics."""
    columns, parameters = _common(monitor, now)
    columns |= {
        "window_cmp_start": _time("window_cmp_start"),
        "window_cmp_end": _time("window_cmp_end"),
        "drift_type": "drift_type",
        "revision": (
            "transform(window_start, {starts:Array(Int64)}, {revisions:Array(Int64)}, toInt64(0))"
        ),
        **{metric.field: metric.field for metric in DRIFT_METRICS if metric.scope is scope},
    }
    return Query(
        f"INSERT INTO {_place(monitor.drift_table)} ({', '.join(columns)}) "
        f"SELECT {', '.join(columns.values())} FROM ({drift.sql})",
        {
            **drift.parameters,
            **parameters,
            "starts": list(revisions),
            "revisions": list(revisions.values()),
        },
    )


def window_rows(
    monitor: Monitor,
    found: Sequence[Mapping[str, Any]],
    ends: Mapping[int, int],
    revisions: Mapping[int, int],
    now: datetime,
) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of the ":table" rows of windows.

    Args:
        monitor: The monitor.
        found: Rows of `quality.window_select`, by column name.
        ends: The end of each window, by start.
        revisions: The revision of each window, by start.
        now: When they were computed.
    """
    fields = [metric.field for metric in PROFILE_METRICS]
    known = {name for row in found for name in row}
    measured = [name for name in fields if name in known]
    names = [
        *("monitor_name", "monitor_version", "window_start", "window_end", "granularity"),
        *("log_type", "slice_key", "slice_value", "column_name", "data_type"),
        *("revision", "computed_at", *measured),
    ]
    words = granularity_words(monitor.granularity)
    rows = []
    for row in found:
        start = int(row["window_start"])
        rows.append(
            [
                *(monitor.name, monitor.version, _moment(start), _moment(ends[start]), words),
                *(INPUT, row["slice_key"], row["slice_value"], TABLE_COLUMN, "table"),
                *(revisions[start], now, *(row[name] for name in measured)),
            ]
        )
    return names, rows


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)


_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def values_select(monitor: Monitor, starts: Collection[int], metrics: Collection[str]) -> Query:
    """The stored values of metrics over all rows of windows: start, metric, column and value."""
    kind = DriftType.BASELINE if monitor.baseline is not None else DriftType.CONSECUTIVE
    chosen = [METRICS[name] for name in metrics]
    return Query(
        f"SELECT start_us, metric, column_name, value FROM ({_unpivoted(monitor, chosen)}) "
        "WHERE slice_key = '' AND start_us IN {starts:Array(Int64)} "
        "AND drift_type IN ('', {drift_type:String})",
        {"monitor_name": monitor.name, "starts": list(starts), "drift_type": kind.value},
    )


_ORDER: Final = "start_us, column_name, slice_key, slice_value, metric, drift_type"


def metrics_select(monitor: Monitor, query: MetricQuery) -> Query:
    """A page of stored values, in order: the fields of a MetricRow."""
    names = query.metrics or tuple(METRICS)
    chosen = [METRICS[name] for name in names if name in METRICS]
    conditions = ["slice_key = {slice_key:String}"]
    parameters: dict[str, Any] = {"monitor_name": monitor.name, "slice_key": query.slice_key}
    if query.columns:
        conditions.append("column_name IN {columns:Array(String)}")
        parameters["columns"] = list(query.columns)
    if query.start_us is not None:
        conditions.append("start_us >= {start:Int64}")
        parameters["start"] = query.start_us
    if query.end_us is not None:
        conditions.append("start_us < {end:Int64}")
        parameters["end"] = query.end_us
    if query.after is not None:
        last = query.after
        conditions.append(
            f"({_ORDER}) > ({{a0:Int64}}, {{a1:String}}, {{a2:String}}, {{a3:String}}, "
            "{a4:String}, {a5:String})"
        )
        parameters |= {"a0": last.start_us, "a1": last.column, "a2": last.slice_key}
        parameters |= {"a3": last.slice_value, "a4": last.metric, "a5": last.drift_type}
    return Query(
        f"SELECT {_ORDER}, end_us, value FROM ({_unpivoted(monitor, chosen)}) "
        f"WHERE {' AND '.join(conditions)} ORDER BY {_ORDER} LIMIT {{limit:UInt64}}",
        {**parameters, "limit": query.limit},
    )


def _unpivoted(monitor: Monitor, metrics: Sequence[Metric]) -> str:
    """One row per value of a metric, of both tables."""
    parts = []
    for table, place, kind in (
        (MetricTable.PROFILE, monitor.profile_table, "''"),
        (MetricTable.DRIFT, monitor.drift_table, "drift_type"),
    ):
        own = [metric for metric in metrics if metric.table is table]
        if not own:
            continue
        inputs = f"AND log_type = '{INPUT}' " if table is MetricTable.PROFILE else ""
        pairs = ", ".join(f"('{metric.name}', {_value(metric)})" for metric in own)
        parts.append(
            "SELECT toUnixTimestamp64Micro(window_start) AS start_us, "
            "toUnixTimestamp64Micro(window_end) AS end_us, "
            "toString(column_name) AS column_name, toString(slice_key) AS slice_key, slice_value, "
            f"pair.1 AS metric, toString({kind}) AS drift_type, assumeNotNull(pair.2) AS value "
            f"FROM {_place(place)} ARRAY JOIN [{pairs}] AS pair "
            f"WHERE monitor_name = {{monitor_name:String}} {inputs}AND isNotNull(pair.2)"
        )
    return " UNION ALL ".join(parts) or _NOTHING


_NOTHING: Final = (
    "SELECT toInt64(0) AS start_us, toInt64(0) AS end_us, '' AS column_name, '' AS slice_key, "
    "'' AS slice_value, '' AS metric, '' AS drift_type, 0. AS value "
    "WHERE {monitor_name:String} != {monitor_name:String}"
)


def _value(metric: Metric) -> str:
    value = f"CAST({metric.field} AS Nullable(Float64))"
    # Rows of columns hold the window's number of rows too, for dashboards.
    return (
        f"if(column_name = '{TABLE_COLUMN}', {value}, NULL)"
        if metric.name == "row_count"
        else value
    )
