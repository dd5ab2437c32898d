"""Spans in ClickHouse, in the table that the OpenTelemetry Collector's exporter would make.

So Grafana's ClickHouse data source shows them as they are. Columns of our own are the experiment
and the span's message, which keeps the types that the texts of attributes have lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Final, Self

from services.tracking.adapters.clickhouse.span_metrics import data_point, metrics_sql
from services.tracking.adapters.clickhouse.span_rows import COLUMNS, SELECTED, row_of, span_of
from services.tracking.adapters.clickhouse.tables import Tables
from services.tracking.domain.search.syntax import SPAN_ATTRIBUTES, Comparison, Filter, Operator
from services.tracking.domain.traces.metrics import DataPoint, MetricsQuery
from services.tracking.domain.traces.search import split_span_filter
from services.tracking.domain.traces.span import Span, otel_id_of, trace_id_of
from services.tracking.errors import StoreBusy
from services.tracking.ports.traces import TraceKey
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.errors import Unavailable
from tessera_kit.store.batch_writer import BatchWriter
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_errors import TableNotFound

__all__ = ["ClickHouseSpans"]

_TABLE: Final = "otel_traces"
# An insert costs milliseconds however small it is: writers that come together share one.
_GATHER_SECONDS: Final = 0.01
_PATIENCE_SECONDS: Final = 10.0
_THEIRS: Final = "ExperimentId IN {experiments:Array(String)}"
_THESE: Final = f"{_THEIRS} AND TraceId IN {{traces:Array(String)}}"
_FORGET_TIMES: Final = (
    "DELETE FROM otel_traces_trace_id_ts WHERE TraceId IN "
    f"(SELECT TraceId FROM {_TABLE} WHERE {_THEIRS})"
)
_TEXT: Final = """arrayStringConcat(arrayConcat(
    [SpanName, StatusMessage],
    arrayMap((k, v) -> concat(k, '=', v), mapKeys(SpanAttributes), mapValues(SpanAttributes)),
    arrayFlatten(arrayMap(
        (name, pairs) -> arrayConcat([name], arrayMap(
            (k, v) -> concat(k, '=', v), mapKeys(pairs), mapValues(pairs))),
        Events.Name, Events.Attributes))
), '\\n')"""
_FIELDS: Final = {
    "name": "SpanName",
    "type": "if(mapContains(SpanAttributes, 'mlflow.spanType'), "
    "SpanAttributes['mlflow.spanType'], 'UNKNOWN')",
    "status": "upper(StatusCode)",
    "content": _TEXT,
}
_OPERATORS: Final = {
    Operator.EQUAL: "{field} = {value}",
    Operator.NOT_EQUAL: "{field} != {value}",
    Operator.RLIKE: "match({field}, {value})",
    Operator.IN: "has({value}, {field})",
    Operator.NOT_IN: "NOT has({value}, {field})",
}


class ClickHouseSpans:
    """The span store in ClickHouse.

    Args:
        client: Whose configured database is the service's own; made when spans first arrive.
    """

    def __init__(self, client: ClickHouse) -> None:
        self._client = client
        self._tables = Tables(client)
        self._writer = BatchWriter(
            client,
            _TABLE,
            COLUMNS,
            max_seconds=_GATHER_SECONDS,
            retry=RetryPolicy(initial_seconds=0.1, budget_seconds=_PATIENCE_SECONDS),
        )

    async def __aenter__(self) -> Self:
        await self._writer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._writer.stop()

    async def add(self, spans: Mapping[str, Sequence[Span]]) -> None:
        """Store spans by their experiment; durable when it returns."""
        rows = [row_of(experiment, span) for experiment, those in spans.items() for span in those]
        if not rows:
            return
        try:
            await self._tables.make()
            await (await self._writer.put(rows))
        except Unavailable as error:
            raise StoreBusy("the store of spans does not answer", retry_after=1.0) from error

    async def of(self, traces: Sequence[TraceKey]) -> dict[str, list[Span]]:
        """Return the spans of traces by trace id, the earliest first."""
        if not (bound := _these(traces))["traces"]:
            return {}
        found = await self._query(
            f"SELECT {SELECTED} FROM {_TABLE} FINAL WHERE {_THESE} "
            "ORDER BY TraceId, StartedAt, SpanId",
            bound,
        )
        spans = (span_of(row) for row in found)
        return {
            trace_id_of(otel_id): list(those)
            for otel_id, those in groupby(spans, key=lambda span: span.trace_id)
        }

    async def matching(self, traces: Sequence[TraceKey], conditions: Filter) -> set[str]:
        """Return the ids of those traces that have what conditions of spans ask for."""
        bound = _these(traces)
        if not bound["traces"]:
            return set()
        return await self._match(_THESE, bound, conditions, "")

    async def candidates(
        self, experiment_ids: Collection[str], conditions: Filter, *, limit: int
    ) -> set[str] | None:
        """Return the ids of all traces that match; None when there are more than `limit`."""
        bound = {"experiments": sorted(experiment_ids)}
        found = await self._match(_THEIRS, bound, conditions, f"LIMIT {limit + 1:d}")
        return None if len(found) > limit else found

    async def _match(
        self, scope: str, bound: dict[str, Any], conditions: Filter, end: str
    ) -> set[str]:
        groups = [
            " AND ".join(_condition(one, bound) for one in together)
            for together in split_span_filter(conditions)
        ]
        having = " AND ".join(f"countIf({group}) > 0" for group in groups)
        found = await self._query(
            f"SELECT TraceId FROM {_TABLE} FINAL WHERE {scope} "
            f"GROUP BY TraceId HAVING {having} {end}",
            bound,
        )
        return {trace_id_of(row["TraceId"]) for row in found}

    async def aggregate(
        self,
        experiment_ids: Collection[str],
        query: MetricsQuery,
        traces: Sequence[TraceKey] | None,
    ) -> list[DataPoint]:
        """Return figures of spans, by time and dimensions."""
        bound: dict[str, Any] = {"experiments": sorted(experiment_ids)}
        where = [_THEIRS]
        if traces is not None:
            bound |= _these(traces)
            where = [_THESE]
        for comparison, at in ((">=", query.start), ("<", _behind_milli(query.end))):
            if at is not None:
                place = _bind(bound, "Int64", at)
                where.append(f"toUnixTimestamp64Micro(Timestamp) {comparison} {place}")
        where += [_condition(one, bound) for one in query.spans]
        sql = metrics_sql(query, _TABLE, " AND ".join(where))
        return [data_point(query, row) for row in await self._query(sql, bound)]

    async def delete(self, traces: Sequence[TraceKey]) -> None:
        """Forget the spans of traces."""
        if not (bound := _these(traces))["traces"]:
            return
        with suppress(TableNotFound):
            await self._client.command(f"DELETE FROM {_TABLE} WHERE {_THESE}", bound)

    async def delete_all(self, experiment_id: str) -> None:
        """Forget all spans of an experiment, and when its traces were."""
        theirs = {"experiments": [experiment_id]}
        with suppress(TableNotFound):
            for statement in (_FORGET_TIMES, f"DELETE FROM {_TABLE} WHERE {_THEIRS}"):
                await self._client.command(statement, theirs)

    async def _query(self, sql: str, bound: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return (await self._client.query(sql, bound)).dicts()
        except TableNotFound:
            return []


def _behind_milli(at: int | None) -> int | None:
    """Return the microsecond behind the millisecond of a time, which counts as a whole."""
    return None if at is None else (at // 1000 + 1) * 1000


def _these(traces: Sequence[TraceKey]) -> dict[str, Any]:
    otel_ids = {otel_id_of(key.trace_id) for key in traces} - {""}
    return {
        "experiments": sorted({key.experiment_id for key in traces}),
        "traces": sorted(otel_ids),
    }


def _condition(comparison: Comparison, bound: dict[str, Any]) -> str:
    key = comparison.field.key
    asked = comparison.operator
    field, present = _FIELDS.get(key, ""), ""
    if not field:
        place = _bind(bound, "String", key.removeprefix(SPAN_ATTRIBUTES))
        field, present = f"SpanAttributes[{place}]", f"mapContains(SpanAttributes, {place}) AND "
    value: Any = comparison.value
    if asked in {Operator.LIKE, Operator.ILIKE}:
        # The backslash is no escape in our grammar.
        place = _bind(bound, "String", value.replace("\\", "\\\\"))
        if asked is Operator.ILIKE:
            # Cases of ASCII only, as `lower` has it and as the other databases agree on.
            return f"({present}lower({field}) LIKE lower({place}))"
        return f"({present}{field} LIKE {place})"
    if isinstance(value, tuple):
        place = _bind(bound, "Array(String)", list(value))
    else:
        place = _bind(bound, "String", value)
    return f"({present}{_OPERATORS[asked].format(field=field, value=place)})"


def _bind(bound: dict[str, Any], kind: str, value: Any) -> str:
    name = f"p{len(bound)}"
    bound[name] = value
    return f"{{{name}:{kind}}}"
