"""The SELECT that compares the profiles of windows with others: a baseline, or the window before.

Everything is computed from two distributions, each as distinct values and their counts:

- `ks_test`: two-sample Kolmogorov-Smirnov. The statistic is the largest distance of the two
  distribution functions; the p-value is that of Kolmogorov's limit distribution at
  sqrt(n m / (n + m)) times it (scipy.special.kolmogorov).
- `wasserstein_distance`: the area between the distribution functions (scipy.stats).
- `population_stability_index`: sum of (q - p) ln(q / p) over the reference's deciles, or over the
  categories; shares below 1e-4 count as 1e-4. A reference with one decile only has the three bins
  below it, at it and above it.
- `js_distance`: Jensen-Shannon distance of the same shares, base 2 (scipy.spatial.distance).
- `tv_distance`, `l_infinity_distance`: half the sum, and the largest, of the shares' differences.
- `chi_squared_test`: of the two-row table of counts by category, without continuity correction
  (scipy.stats.chi2_contingency(correction=False)).

Of a window as a whole, `non_null_columns_delta`: how many columns have values and had none, or were
not there, in what it is compared with (`added`), and the other way round (`missing`). Columns that
the baseline's table does not have, or that are not watched any more, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from services.monitoring.adapters.clickhouse.engine import Query, layers, quote
from services.monitoring.adapters.clickhouse.profile import BASELINE, COLUMN_PROFILES, INPUT
from services.monitoring.domain.metrics import (
    COLUMN_DRIFT,
    TABLE_COLUMN,
    WINDOW_DRIFT,
    DriftType,
    Scope,
)

__all__ = ["drift_select"]

# Of a window as a whole: the columns that it has, and those of them that have values.
_PRESENCE: Final = {
    "window_start": "window_start",
    "window_end": "any(window_end)",
    "slice_key": "slice_key",
    "slice_value": "slice_value",
    "known": "groupArray(column_name)",
    "present": "groupArrayIf(column_name, count > 0)",
}

_FIELDS: Final = (
    *("window_start", "window_end", "slice_key", "slice_value", "column_name", "data_type"),
    *("row_count", "count", "num_nan", "num_zeros", "distinct_count", "avg"),
    *("numbers", "number_counts", "texts", "text_counts", "other_count", "edges"),
)
_LEAST_SHARE: Final = 1e-4


def drift_select(
    database: str,
    monitor_id: str,
    scope: Scope,
    *,
    starts: Sequence[int],
    before: Mapping[int, int],
    baseline_slices: Sequence[str] | None,
) -> Query:
    """The SELECT of the drift of windows.

    Args:
        database: The service's own database.
        monitor_id: The monitor.
        scope: Whether the drift of their columns is selected, or of each as a whole.
        starts: The windows.
        before: The start of the window before, for each window that has one.
        baseline_slices: The slicing columns that the baseline was sliced by too; other slices are
            compared with the whole baseline. None when there is no baseline.

    Returns:
        Rows of `window_start`, `window_end`, `window_cmp_start`, `window_cmp_end`, `drift_type`,
        `slice_key`, `slice_value`, `column_name`, `data_type` and the metrics, by field name. Text
        of a query without rows when there is nothing to compare with.
    """
    compared = " UNION ALL ".join(_compared(database, scope, before, baseline_slices))
    return Query(
        "SELECT w_window_start AS window_start, w_window_end AS window_end, "
        "r_window_start AS window_cmp_start, r_window_end AS window_cmp_end, drift_type, "
        "w_slice_key AS slice_key, w_slice_value AS slice_value, "
        + (_of_columns(compared) if scope is Scope.COLUMN else _of_windows(compared)),
        {
            "monitor_id": monitor_id,
            "starts": list(starts),
            # `transform` refuses empty arrays.
            "after": list(before) or [-1],
            "before": list(before.values()) or [-1],
            "baseline_slices": list(baseline_slices or ()),
        },
    )


def _compared(
    database: str, scope: Scope, before: Mapping[int, int], baseline_slices: Sequence[str] | None
) -> Iterator[str]:
    """The SELECTs of windows beside what they are compared with; one at least."""
    if baseline_slices is not None:
        known = "has({baseline_slices:Array(String)}, w_slice_key)"
        yield _pairs(
            database,
            DriftType.BASELINE,
            scope,
            at="toInt64(0)",
            key=f"if({known}, w_slice_key, '')",
            value=f"if({known}, w_slice_value, '')",
        )
    if before or baseline_slices is None:
        at = "transform(w_window_start, {after:Array(Int64)}, {before:Array(Int64)}, toInt64(-1))"
        yield _pairs(
            database,
            DriftType.CONSECUTIVE,
            scope,
            at=at,
            key="w_slice_key",
            value="w_slice_value",
        )


def _of_columns(pairs: str) -> str:
    metrics = ", ".join(f"{_METRICS[metric.name]} AS {metric.field}" for metric in COLUMN_DRIFT)
    return (
        "w_column_name AS column_name, "
        f"w_data_type AS data_type, {metrics} FROM ({_distances(_shares(pairs))})"
    )


def _of_windows(pairs: str) -> str:
    both = "length(arrayIntersect(w_counted, r_counted))"
    counted = layers(
        pairs,
        {
            "w_counted": (
                f"if(drift_type = '{DriftType.BASELINE.value}', "
                "arrayIntersect(w_present, r_known), w_present)"
            ),
            "r_counted": "arrayIntersect(r_present, w_known)",
        },
    )
    sides = zip(WINDOW_DRIFT, ("w", "r"), strict=True)
    metrics = ", ".join(
        f"toFloat64(length({side}_counted) - {both}) AS {metric.field}" for metric, side in sides
    )
    return f"'{TABLE_COLUMN}' AS column_name, 'table' AS data_type, {metrics} FROM ({counted})"


def _pairs(
    database: str, drift_type: DriftType, scope: Scope, *, at: str, key: str, value: str
) -> str:
    """Rows of a window's profile `w_…` beside the profile `r_…` that it is compared with."""
    baseline = drift_type is DriftType.BASELINE
    compared = "window_start = 0" if baseline else "window_start IN {before:Array(Int64)}"
    mine = _side(database, scope, "w", "window_start IN {starts:Array(Int64)}", INPUT)
    other = _side(database, scope, "r", compared, BASELINE if baseline else INPUT)
    alike = " AND w.w_column_name = r.r_column_name AND w.w_data_type = r.r_data_type"
    return (
        f"SELECT *, '{drift_type.value}' AS drift_type FROM (SELECT *, {at} AS at, "
        f"{key} AS at_key, {value} AS at_value FROM ({mine})) AS w "
        f"INNER JOIN ({other}) AS r "
        "ON w.at = r.r_window_start AND w.at_key = r.r_slice_key "
        f"AND w.at_value = r.r_slice_value{alike if scope is Scope.COLUMN else ''}"
    )


def _side(database: str, scope: Scope, prefix: str, condition: str, log_type: str) -> str:
    """Profiles with each field's name behind a prefix."""
    fields = {name: name for name in _FIELDS} if scope is Scope.COLUMN else _PRESENCE
    named = ", ".join(f"{value} AS {prefix}_{name}" for name, value in fields.items())
    grouped = "" if scope is Scope.COLUMN else " GROUP BY window_start, slice_key, slice_value"
    return (
        f"SELECT {named} FROM {quote(database)}.{COLUMN_PROFILES} "
        f"WHERE monitor_id = {{monitor_id:String}} AND {condition} "
        f"AND log_type = '{log_type}'{grouped}"
    )


# Of both sides, `{0}` and the other one, `{1}`: sums by text over all texts of both, in the same
# order for both.
_BY_TEXT: Final = (
    "tupleElement(mapAdd(({0}_texts, {0}_text_counts), "
    "({1}_texts, arrayMap(c -> toUInt64(0), {1}_texts))), 2)"
)
# One decile only: all of the reference is about there. Look below it and above it.
_BINS: Final = (
    "if(length(r_edges) = 1, [(r_edges[1], 0), (r_edges[1], 1)], arrayMap(e -> (e, 1), r_edges))"
)
_UP_TO_EDGES: Final = (
    "arrayPushBack(arrayMap(e -> arraySum((v, c) -> if(v < e.1 OR (e.2 = 1 AND v = e.1), c, 0),"
    " {0}_numbers, {0}_number_counts), bins), {0}_m)"
)
_BETWEEN_EDGES: Final = (
    "arrayMap((c, previous) -> toFloat64(c - previous), {0}_upto, "
    "arrayPopBack(arrayPushFront({0}_upto, toUInt64(0))))"
)
_BIN_COUNTS: Final = (
    "if(w_data_type = 'numeric', {0}_binned, arrayMap(c -> toFloat64(c), "
    "if(w_other_count + r_other_count > 0, "
    "arrayPushBack({0}_by_text, {0}_other_count), {0}_by_text)))"
)


def _shares(pairs: str) -> str:
    """Both distributions over the same places: the steps of numbers, the bins, the categories."""
    return layers(
        pairs,
        {
            "w_m": "toUInt64(w_count - ifNull(w_num_nan, 0))",
            "r_m": "toUInt64(r_count - ifNull(r_num_nan, 0))",
            "bins": _BINS,
            "w_by_text": _BY_TEXT.format("w", "r"),
            "r_by_text": _BY_TEXT.format("r", "w"),
        },
        {
            "is_numeric": "w_data_type = 'numeric' AND w_m > 0 AND r_m > 0",
            "is_text": "w_data_type != 'numeric' AND w_m > 0 AND r_m > 0",
            "w_upto": _UP_TO_EDGES.format("w"),
            "r_upto": _UP_TO_EDGES.format("r"),
            "spots": "arrayConcat(w_numbers, r_numbers)",
            "weights": (
                "arrayConcat(arrayMap(c -> c / w_m, w_number_counts), "
                "arrayMap(c -> -(c / r_m), r_number_counts))"
            ),
        },
        {
            "w_binned": _BETWEEN_EDGES.format("w"),
            "r_binned": _BETWEEN_EDGES.format("r"),
            "places": "arraySort(spots)",
            "gaps": "arrayCumSum(arraySort((w, v) -> v, weights, spots))",
        },
        {
            "w_bins": _BIN_COUNTS.format("w"),
            "r_bins": _BIN_COUNTS.format("r"),
            "following": "arrayShiftLeft(places, 1)",
        },
    )


def _distances(shares: str) -> str:
    """The sums that the metrics are made of."""
    inside = "i < length(gaps)"
    return layers(
        shares,
        {
            "ks": (
                f"if(empty(gaps), 0, arrayMax((g, v, n, i) -> if({inside} AND v = n, 0, abs(g)), "
                "gaps, places, following, arrayEnumerate(gaps)))"
            ),
            "area": (
                f"arraySum((g, v, n, i) -> if({inside}, abs(g) * (n - v), 0), "
                "gaps, places, following, arrayEnumerate(gaps))"
            ),
            "w_part": "w_m / (w_m + r_m)",
            "r_part": "r_m / (w_m + r_m)",
            "q": "arrayMap(c -> c / w_m, w_bins)",
            "p": "arrayMap(c -> c / r_m, r_bins)",
            "freedom": "toInt64(arrayCount((a, b) -> a + b > 0, w_bins, r_bins)) - 1",
        },
        {
            "ks_scaled": "sqrt(w_m * r_part) * ks",
            "chi": (
                "arraySum((a, b) -> if(a + b = 0, 0, "
                "pow(a - (a + b) * w_part, 2) / ((a + b) * w_part) "
                "+ pow(b - (a + b) * r_part, 2) / ((a + b) * r_part)), w_bins, r_bins)"
            ),
        },
    )


def _when(condition: str, value: str) -> str:
    return f"if({condition}, {value}, NULL)"


def _change(value: str) -> str:
    return value.format("w") + " - " + value.format("r")


# Kolmogorov's distribution, 2 sum (-1)^(k-1) exp(-2 k^2 x^2): below 0.2 it is 1 within 1e-12.
_KOLMOGOROV = (
    "if(ks_scaled < 0.2, 1, least(1, greatest(0, 2 * arraySum(k -> "
    "if(k % 2 = 1, 1, -1) * exp(-2 * k * k * ks_scaled * ks_scaled), range(1, 41)))))"
)
# The upper tail of the chi-squared distribution with whole degrees of freedom, as a finite sum.
_CHI_TAIL = (
    "multiIf(freedom < 1 OR chi / 2 <= 0, 1., freedom % 2 = 0, "
    "arraySum(i -> exp(-chi / 2 + i * log(chi / 2) - lgamma(i + 1)), "
    "range(toUInt64(greatest(intDiv(freedom, 2), 0)))), "
    "erfc(sqrt(chi / 2)) + "
    "arraySum(i -> exp(-chi / 2 + (i + 0.5) * log(chi / 2) - lgamma(i + 1.5)), "
    "range(toUInt64(greatest(intDiv(freedom - 1, 2), 0)))))"
)
_FLOOR = f"greatest({{}}, {_LEAST_SHARE})"
_PSI = (
    f"arraySum((a, b) -> ({_FLOOR.format('a')} - {_FLOOR.format('b')}) "
    f"* log({_FLOOR.format('a')} / {_FLOOR.format('b')}), q, p)"
)
_JS = (
    "sqrt(greatest(0, arraySum((a, b) -> if(a > 0, a * log2(2 * a / (a + b)), 0) "
    "+ if(b > 0, b * log2(2 * b / (a + b)), 0), q, p) / 2))"
)
_TV = "arraySum((a, b) -> abs(a - b), q, p) / 2"
_L_INFINITY = "arrayMax((a, b) -> abs(a - b), q, p)"

_METRICS: Final = {
    "count_delta": _change("toFloat64({0}_row_count)"),
    "avg_delta": _change("{0}_avg"),
    "percent_null_delta": _change("100 * ({0}_row_count - {0}_count) / {0}_row_count"),
    "percent_zeros_delta": _change("100 * {0}_num_zeros / {0}_row_count"),
    "percent_distinct_delta": _change("100 * {0}_distinct_count / {0}_row_count"),
    "ks_test.statistic": _when("is_numeric", "ks"),
    "ks_test.pvalue": _when("is_numeric", _KOLMOGOROV),
    "wasserstein_distance": _when("is_numeric", "area"),
    "population_stability_index": _when("is_numeric OR is_text", _PSI),
    "js_distance": _when("is_numeric OR is_text", _JS),
    "tv_distance": _when("is_text", _TV),
    "l_infinity_distance": _when("is_text", _L_INFINITY),
    "chi_squared_test.statistic": _when("is_text", "chi"),
    "chi_squared_test.pvalue": _when("is_text", f"least(1., {_CHI_TAIL})"),
}
