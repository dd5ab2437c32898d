"""The INSERT that describes every column of windows, by slice: statistics and distribution.

One pass over the rows: values are gathered per window, slice and column, sorted and cut into runs
of equal ones; all else follows from the runs. A distribution of more than RESOLUTION distinct
numbers is kept by the last value of each of RESOLUTION equal shares of its rows, with exact counts:
as a step function it equals the exact one at these values, and is nowhere further from it than one
share. Of more than RESOLUTION distinct texts, the most frequent are kept, and a count of the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from services.monitoring.adapters.clickhouse.engine import Query, layers, quote, text
from services.monitoring.domain.columns import Column, ColumnKind, RowSchema

__all__ = ["BASELINE", "COLUMN_PROFILES", "INPUT", "RESOLUTION", "ProfileKey", "profile_insert"]

COLUMN_PROFILES: Final = "column_profiles"
INPUT: Final = "INPUT"
BASELINE: Final = "BASELINE"
RESOLUTION: Final = 4096
_SLICE_VALUES: Final = 100
_FREQUENT: Final = 10
_STEPS: Final = 1000


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """What a set of windows is described as."""

    monitor_id: str
    monitor_version: int
    log_type: str
    """INPUT for windows, BASELINE for what they are compared with."""
    length_us: int
    """The length of a window; 0 for snapshots."""


def profile_insert(
    database: str,
    key: ProfileKey,
    rows: Query,
    schema: RowSchema,
    revisions: Mapping[int, int],
) -> Query:
    """The INSERT of the profiles of windows.

    Args:
        database: The service's own database.
        key: What the profiles are of.
        rows: A SELECT of `rows`; windows that `revisions` does not name are left out.
        schema: What `rows` reads; at least one column.
        revisions: The new revision of each window, by start.
    """
    described = _kept(_runs(_gather(rows, schema)))
    return Query(
        f"INSERT INTO {quote(database)}.{COLUMN_PROFILES} ({', '.join(_COLUMNS)}) "
        f"SELECT {', '.join(_COLUMNS.values())} FROM ({described})",
        {
            **rows.parameters,
            "monitor_id": key.monitor_id,
            "monitor_version": key.monitor_version,
            "log_type": key.log_type,
            "length": key.length_us,
            "starts": list(revisions),
            "revisions": list(revisions.values()),
        },
    )


def _gather(rows: Query, schema: RowSchema) -> str:
    """One row per window, slice and column: all its values, nulls left out."""
    slices = ["('', '')", *(f"({text(c.name)}, s{i})" for i, c in enumerate(schema.slices))]
    values = [f"groupArray(c{i}) AS v{i}" for i in range(len(schema.columns))]
    described = [_described(i, column) for i, column in enumerate(schema.columns)]
    return (
        "SELECT window_start, slice_key, slice_value, n, column.1 AS column_name, "
        "column.2 AS data_type, column.3 AS numbers, column.4 AS texts FROM ("
        "SELECT window_start, slice.1 AS slice_key, slice.2 AS slice_value, count() AS n, "
        f"{', '.join(values)} FROM ({rows.sql}) ARRAY JOIN [{', '.join(slices)}] AS slice "
        "WHERE window_start IN {starts:Array(Int64)} "
        "GROUP BY window_start, slice_key, slice_value "
        f"ORDER BY n DESC, slice_value LIMIT {_SLICE_VALUES} BY window_start, slice_key"
        f") ARRAY JOIN [{', '.join(described)}] AS column"
    )


def _described(index: int, column: Column) -> str:
    if column.kind is ColumnKind.NUMERIC:
        return f"({text(column.name)}, 'numeric', v{index}, CAST([] AS Array(String)))"
    return f"({text(column.name)}, 'categorical', CAST([] AS Array(Float64)), v{index})"


# Lambdas take arrays as arguments and never from around them: those are copied per element.
_IS_LAST: Final = (
    "arrayMap((i, v, following) -> i = length({0}) OR v != following, "
    "arrayEnumerate({0}), {0}, arrayShiftLeft({0}, 1))"
)
_RUN_ENDS: Final = "arrayFilter((i, is_last) -> is_last, arrayEnumerate({0}), {0}_last)"
_RUN_VALUES: Final = "arrayFilter((v, is_last) -> is_last, {0}, {0}_last)"


def _runs(gathered: str) -> str:
    """Each column's values sorted, and where runs of equal ones end."""
    return layers(
        gathered,
        {
            # Negative zero is zero.
            "x": (
                "arraySort(arrayMap(v -> if(v = 0, 0, v), arrayFilter(v -> isFinite(v), numbers)))"
            ),
            "t": "arraySort(texts)",
        },
        {"x_last": _IS_LAST.format("x"), "t_last": _IS_LAST.format("t")},
        {
            "m": "length(x)",
            "mt": "length(t)",
            "x_ends": _RUN_ENDS.format("x"),
            "t_ends": _RUN_ENDS.format("t"),
            "x_values": _RUN_VALUES.format("x"),
            "t_values": _RUN_VALUES.format("t"),
            # Linear interpolation between order statistics, as numpy.quantile does by default.
            "steps": (
                "if(empty(x), CAST([] AS Array(Float64)), "
                f"arrayReduce('quantilesExactInclusive({_LEVELS})', x))"
            ),
        },
    )


def _kept(runs: str) -> str:
    """How long the runs are, the most frequent values, and what is kept as the distribution."""
    return layers(
        runs,
        {
            "x_runs": _run_lengths("x_ends"),
            "t_runs": _run_lengths("t_ends"),
            "shares": (
                f"arrayMap((e, i) -> if(length(x_ends) > {RESOLUTION}, "
                f"toUInt64(intDiv((e - 1) * {RESOLUTION}, m)), toUInt64(i)), "
                "x_ends, arrayEnumerate(x_ends))"
            ),
        },
        {
            "is_kept": (
                "arrayMap((i, share, following) -> i = length(shares) OR share != following, "
                "arrayEnumerate(shares), shares, arrayShiftLeft(shares, 1))"
            ),
            "x_top": _top("x_values", "x_runs", _FREQUENT),
            "t_top": _top("t_values", "t_runs", _FREQUENT),
            "t_kept": (
                f"if(length(t_values) > {RESOLUTION}, "
                f"arraySort(p -> p.1, {_top('t_values', 't_runs', RESOLUTION)}), "
                "arrayZip(t_values, t_runs))"
            ),
        },
        {
            "kept_values": "arrayFilter((v, k) -> k, x_values, is_kept)",
            "kept_ends": "arrayFilter((e, k) -> k, x_ends, is_kept)",
        },
    )


def _run_lengths(ends: str) -> str:
    return (
        f"arrayMap((e, previous) -> toUInt64(e - previous), {ends}, "
        f"arrayPopBack(arrayPushFront({ends}, 0)))"
    )


_LEVELS = ", ".join(f"{step / _STEPS:g}" for step in range(_STEPS + 1))
_DECILES = ", ".join(f"steps[{_STEPS * tenth // 10 + 1}]" for tenth in range(1, 10))


def _top(values: str, runs: str, count: int) -> str:
    """The most frequent values with their counts; of equally frequent ones the least."""
    return (
        f"arraySlice(arrayPartialSort(p -> (-toInt64(p.2), p.1), {count}, "
        f"arrayZip({values}, {runs})), 1, {count})"
    )


def _either(numeric: str, categorical: str) -> str:
    return f"if(data_type = 'numeric', {numeric}, {categorical})"


_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "monitor_id": "{monitor_id:String}",
        "monitor_version": "{monitor_version:Int64}",
        "log_type": "{log_type:String}",
        "window_start": "window_start",
        "window_end": "window_start + {length:Int64}",
        "revision": (
            "transform(window_start, {starts:Array(Int64)}, {revisions:Array(Int64)}, toInt64(0))"
        ),
        "slice_key": "slice_key",
        "slice_value": "slice_value",
        "column_name": "column_name",
        "data_type": "data_type",
        "row_count": "n",
        "count": "length(numbers) + length(texts)",
        "num_nan": _either("length(numbers) - m", "NULL"),
        "num_zeros": _either("arrayCount(v -> v = 0, x)", "NULL"),
        "distinct_count": "length(x_ends) + length(t_ends)",
        "avg": "if(m > 0, arrayAvg(x), NULL)",
        "min": "if(m > 0, x[1], NULL)",
        "max": "if(m > 0, x[m], NULL)",
        "stddev": "if(m > 1, arrayReduce('stddevSampStable', x), NULL)",
        "quantiles": "steps",
        "min_length": "if(mt > 0, arrayMin(v -> lengthUTF8(v), t_values), NULL)",
        "max_length": "if(mt > 0, arrayMax(v -> lengthUTF8(v), t_values), NULL)",
        "avg_length": (
            "if(mt > 0, arraySum((v, r) -> lengthUTF8(v) * r, t_values, t_runs) / mt, NULL)"
        ),
        "frequent_items": _either(
            "arrayMap(p -> toString(p.1), x_top)", "arrayMap(p -> p.1, t_top)"
        ),
        "frequent_counts": _either("arrayMap(p -> p.2, x_top)", "arrayMap(p -> p.2, t_top)"),
        "numbers": "kept_values",
        "texts": "arrayMap(p -> p.1, t_kept)",
        "number_counts": _run_lengths("kept_ends"),
        "text_counts": "arrayMap(p -> p.2, t_kept)",
        "other_count": "mt - arraySum(p -> p.2, t_kept)",
        "edges": f"if(m > 0, arrayDistinct([{_DECILES}]), [])",
    }
)
