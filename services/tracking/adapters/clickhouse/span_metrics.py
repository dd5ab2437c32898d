"""Figures of spans as SQL; says what `domain.traces.metrics` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from services.tracking.domain.traces.metrics import (
    Aggregation,
    DataPoint,
    Figure,
    MetricsQuery,
    time_bucket,
)

__all__ = ["data_point", "metrics_sql"]

_ABSENT: Final = "if(mapContains(SpanAttributes, '{key}'), SpanAttributes['{key}'], NULL)"
_DIMENSIONS: Final = {
    "span_name": "SpanName",
    "span_type": "if(mapContains(SpanAttributes, 'mlflow.spanType'), "
    "SpanAttributes['mlflow.spanType'], 'UNKNOWN')",
    "span_status": "upper(StatusCode)",
    "span_model_name": _ABSENT.format(key="mlflow.llm.model"),
    "span_model_provider": _ABSENT.format(key="mlflow.llm.provider"),
}
_VALUES: Final = {
    "span_count": "toFloat64(1)",
    "latency": "Duration / 1e6",
    **{
        name: f"JSONExtract(SpanAttributes['mlflow.llm.cost'], '{name}', 'Nullable(Float64)')"
        for name in ("input_cost", "output_cost", "total_cost")
    },
}
_FIGURES: Final = {
    Aggregation.COUNT: "toFloat64(count())",
    Aggregation.SUM: "sum(value)",
    Aggregation.AVG: "avg(value)",
    Aggregation.MIN: "min(value)",
    Aggregation.MAX: "max(value)",
}


def metrics_sql(query: MetricsQuery, table: str, where: str) -> str:
    """Return the SQL of a checked query over the rows of a table that match."""
    keys = [f"{_DIMENSIONS[name]} AS d{index}" for index, name in enumerate(query.dimensions)]
    names = [f"d{index}" for index in range(len(keys))]
    if query.interval_seconds:
        keys.insert(0, f"intDiv(toUnixTimestamp(Timestamp), {query.interval_seconds:d}) AS bucket")
        names.insert(0, "bucket")
    figures = [f"{_figure(one)} AS f{index}" for index, one in enumerate(query.figures)]
    present = " AND ".join(f"{name} IS NOT NULL" for name in ("value", *names))
    inner = ", ".join([*keys, f"{_VALUES[query.metric]} AS value"])
    return (
        f"SELECT {', '.join([*names, *figures])} "
        f"FROM (SELECT {inner} FROM {table} FINAL WHERE {where}) WHERE {present} "
        + (f"GROUP BY {', '.join(names)} ORDER BY {', '.join(names)} " if names else "")
        + ("" if names else "HAVING count() > 0 ")
        + f"LIMIT {query.limit:d} OFFSET {query.offset:d}"
    )


def data_point(query: MetricsQuery, row: Mapping[str, Any]) -> DataPoint:
    """Return the figures of a row."""
    dimensions: dict[str, str] = {}
    if seconds := query.interval_seconds:
        dimensions["time_bucket"] = time_bucket(row["bucket"] * seconds * 1_000_000, seconds)
    for index, name in enumerate(query.dimensions):
        dimensions[name] = row[f"d{index}"]
    values = {figure.label: row[f"f{index}"] for index, figure in enumerate(query.figures)}
    return DataPoint(dimensions, values)


def _figure(figure: Figure) -> str:
    if figure.aggregation is Aggregation.PERCENTILE:
        return f"quantileExactInclusive({figure.percentile / 100:f})(value)"
    return _FIGURES[figure.aggregation]
