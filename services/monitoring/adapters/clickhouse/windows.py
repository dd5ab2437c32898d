"""The SELECTs that find windows: of new requests, of a whole table, of labelled requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.monitoring.adapters.clickhouse.engine import Query
from services.monitoring.adapters.clickhouse.rows import (
    inference_rows,
    snapshot_rows,
    time_series_rows,
)
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.monitor import Monitor, SnapshotProfile
from services.monitoring.domain.windows import RequestRange, microseconds
from services.monitoring.ports import Label, RowBatch

__all__ = [
    "counts_select",
    "labelled_windows_select",
    "length_us",
    "touched_select",
    "watched_rows",
]


def length_us(monitor: Monitor) -> int:
    """The length of the monitor's windows in microseconds; 0 for snapshots."""
    return 0 if monitor.granularity is None else microseconds(monitor.granularity)


def watched_rows(
    monitor: Monitor,
    schema: RowSchema,
    *,
    starts: Sequence[int],
    ranges: Sequence[RequestRange] | None,
) -> Query:
    """The rows of windows; `starts` becomes a parameter of the query."""
    if isinstance(monitor.profile, SnapshotProfile):
        query = snapshot_rows(monitor.source, schema, starts[0])
    else:
        query = _time_rows(
            monitor, schema, ranges=ranges, where="window_start IN {starts:Array(Int64)}"
        )
    return Query(query.sql, {**query.parameters, "starts": list(starts)})


def _time_rows(
    monitor: Monitor,
    schema: RowSchema,
    *,
    ranges: Sequence[RequestRange] | None,
    request_ids: tuple[str, str] | None = None,
    where: str = "1",
) -> Query:
    if monitor.inference is None:
        return time_series_rows(monitor.source, schema, length_us(monitor), where=where)
    return inference_rows(
        monitor.source,
        schema,
        length_us(monitor),
        ranges=ranges,
        request_ids=request_ids,
        where=where,
    )


def _times_only(schema: RowSchema) -> RowSchema:
    """The schema without what is not needed to tell a row's window; one column tells its rows."""
    return RowSchema(schema.columns[:1], (), schema.timestamp, schema.time_kind)


def touched_select(monitor: Monitor, schema: RowSchema, batch: RowBatch | None) -> Query:
    """Per window: start, rows, first and last request time, latest event time; by start."""
    rows = _time_rows(
        monitor,
        _times_only(schema),
        ranges=None if batch is None else [batch.requests],
        request_ids=None if batch is None else batch.request_ids,
    )
    request = "request_us" if monitor.inference is not None else "event_us"
    return Query(
        f"SELECT window_start, count() AS n, assumeNotNull(min({request})), "
        f"assumeNotNull(max({request})), assumeNotNull(max(event_us)) "
        f"FROM ({rows.sql}) GROUP BY window_start ORDER BY window_start",
        rows.parameters,
    )


def counts_select(
    monitor: Monitor,
    schema: RowSchema,
    starts: Sequence[int],
    ranges: Sequence[RequestRange] | None,
) -> Query:
    """How many rows each window has."""
    rows = watched_rows(monitor, _times_only(schema), starts=starts, ranges=ranges)
    return rows.wrap(
        "SELECT window_start, count() FROM",
        "WHERE window_start IN {starts:Array(Int64)} GROUP BY window_start",
    )


def labelled_windows_select(
    monitor: Monitor, schema: RowSchema, labels: Sequence[Label]
) -> Query | None:
    """The windows of labelled requests; None when no label is left to look for."""
    own = sorted({label.tessera_request_id for label in labels if label.tessera_request_id})
    their = sorted({label.client_request_id for label in labels if not label.tessera_request_id})
    conditions: list[str] = []
    parameters: Mapping[str, list[str]] = {"own": own, "their": their}
    if own:
        conditions.append("tessera_request_id IN {own:Array(String)}")
    if their:
        conditions.append("client_request_id IN {their:Array(String)}")
    if not conditions:
        return None
    rows = inference_rows(
        monitor.source,
        _times_only(schema),
        length_us(monitor),
        requests_where=" OR ".join(conditions),
    )
    return Query(
        f"SELECT DISTINCT window_start FROM ({rows.sql}) ORDER BY window_start",
        {**rows.parameters, **{name: ids for name, ids in parameters.items() if ids}},
    )
