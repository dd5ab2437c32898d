"""The definitions of all metrics in numpy, value by value: what the SQL must agree with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Sample",
    "binary_quality",
    "chi_squared_tail",
    "drift",
    "kolmogorov_tail",
    "profile",
    "regression_quality",
]

_LEAST_SHARE = 1e-4
_CLIP = 1e-15
_EPSILON = 2.220446049250313e-16

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One column's values in one window and slice."""

    numeric: bool
    values: Sequence[float | str | None]
    """One per row; None for null."""

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.values)

    @property
    def present(self) -> list[float | str]:
        """The values that are not null."""
        return [value for value in self.values if value is not None]

    @property
    def numbers(self) -> Numbers:
        """The finite numbers, sorted."""
        present = np.array([float(v) for v in self.present] if self.numeric else [], np.float64)
        return np.sort(present[np.isfinite(present)])


def profile(sample: Sample) -> dict[str, float]:
    """The metrics of one column; those that it does not have are left out."""
    rows, present = sample.rows, sample.present
    found: dict[str, float] = {
        "count": len(present),
        "num_nulls": rows - len(present),
        "percent_null": 100 * (rows - len(present)) / rows,
    }
    if not sample.numeric:
        return found | _text_profile([str(value) for value in present], rows)
    x = sample.numbers
    zeros, bad = int(np.sum(x == 0)), len(present) - len(x)
    found |= {
        "num_nan": bad,
        "num_zeros": zeros,
        "distinct_count": len(np.unique(x)),
        "percent_nan": 100 * bad / rows,
        "percent_zeros": 100 * zeros / rows,
        "percent_distinct": 100 * len(np.unique(x)) / rows,
    }
    if len(x):
        found |= {"avg": float(np.mean(x)), "min": float(x[0]), "max": float(x[-1])}
        found["median"] = float(np.median(x))
    if len(x) > 1:
        found["stddev"] = float(np.std(x, ddof=1))
    return found


def _text_profile(texts: Sequence[str], rows: int) -> dict[str, float]:
    lengths = [len(text) for text in texts]
    found: dict[str, float] = {
        "distinct_count": len(set(texts)),
        "percent_distinct": 100 * len(set(texts)) / rows,
    }
    if lengths:
        found |= {"min_length": min(lengths), "max_length": max(lengths)}
        found["avg_length"] = sum(lengths) / len(lengths)
    return found


def drift(sample: Sample, reference: Sample) -> dict[str, float]:
    """The metrics of a column against a reference of the same kind."""
    mine, other = profile(sample), profile(reference)
    found = {"count_delta": float(sample.rows - reference.rows)}
    for name in ("avg", "percent_null", "percent_zeros", "percent_distinct"):
        if name in mine and name in other:
            found[f"{name}_delta"] = mine[name] - other[name]
    if sample.numeric:
        x, y = sample.numbers, reference.numbers
        if len(x) and len(y):
            found |= _numeric_drift(x, y)
    elif sample.present and reference.present:
        found |= _categorical_drift(Counter(sample.present), Counter(reference.present))
    return found


def _numeric_drift(x: Numbers, y: Numbers) -> dict[str, float]:
    places = np.unique(np.concatenate([x, y]))
    gaps = np.abs(_upto(x, places) / len(x) - _upto(y, places) / len(y))
    statistic = float(np.max(gaps))
    scale = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    bins_x, bins_y = _binned(x, y), _binned(y, y)
    return {
        "ks_test.statistic": statistic,
        "ks_test.pvalue": kolmogorov_tail(scale * statistic),
        "wasserstein_distance": float(np.sum(gaps[:-1] * np.diff(places))),
        "population_stability_index": _stability(bins_x / len(x), bins_y / len(y)),
        "js_distance": _jensen_shannon(bins_x / len(x), bins_y / len(y)),
    }


def _upto(sorted_values: Numbers, places: Numbers) -> Numbers:
    return np.searchsorted(sorted_values, places, side="right").astype(np.float64)


def _binned(values: Numbers, reference: Numbers) -> Numbers:
    edges = np.unique(np.quantile(reference, np.arange(1, 10) / 10))
    if len(edges) == 1:
        at = edges[0]
        below, equal = float(np.sum(values < at)), float(np.sum(values == at))
        return np.array([below, equal, len(values) - below - equal])
    return np.diff(np.concatenate([[0.0], _upto(values, edges), [float(len(values))]]))


def _categorical_drift(mine: Counter[float | str], other: Counter[float | str]) -> dict[str, float]:
    names = sorted({*mine, *other}, key=str)
    a = np.array([mine[name] for name in names], np.float64)
    b = np.array([other[name] for name in names], np.float64)
    q, p = a / a.sum(), b / b.sum()
    statistic, freedom = _chi_squared(a, b)
    return {
        "population_stability_index": _stability(q, p),
        "js_distance": _jensen_shannon(q, p),
        "tv_distance": float(np.sum(np.abs(q - p)) / 2),
        "l_infinity_distance": float(np.max(np.abs(q - p))),
        "chi_squared_test.statistic": statistic,
        "chi_squared_test.pvalue": chi_squared_tail(statistic, freedom),
    }


def _chi_squared(a: Numbers, b: Numbers) -> tuple[float, int]:
    both, total = a + b, a.sum() + b.sum()
    expected_a, expected_b = both * a.sum() / total, both * b.sum() / total
    parts = (a - expected_a) ** 2 / expected_a + (b - expected_b) ** 2 / expected_b
    return float(np.sum(parts)), len(a) - 1


def _stability(q: Numbers, p: Numbers) -> float:
    q, p = np.maximum(q, _LEAST_SHARE), np.maximum(p, _LEAST_SHARE)
    return float(np.sum((q - p) * np.log(q / p)))


def _jensen_shannon(q: Numbers, p: Numbers) -> float:
    middle = (q + p) / 2
    total = 0.0
    for side in (q, p):
        some = side > 0
        total += float(np.sum(side[some] * np.log2(side[some] / middle[some])))
    return math.sqrt(max(0.0, total / 2))


def kolmogorov_tail(x: float) -> float:
    """The chance that Kolmogorov's limit distribution exceeds `x`."""
    if x < 0.2:
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def chi_squared_tail(x: float, freedom: int) -> float:
    """The chance that a chi-squared variable of whole degrees of freedom exceeds `x`."""
    half = x / 2
    if freedom < 1 or half <= 0:
        return 1.0
    if freedom % 2 == 0:
        powers, first = [float(i) for i in range(freedom // 2)], 0.0
    else:
        powers = [i + 0.5 for i in range((freedom - 1) // 2)]
        first = math.erfc(math.sqrt(half))
    terms = (math.exp(-half + i * math.log(half) - math.lgamma(i + 1)) for i in powers)
    return min(1.0, first + math.fsum(terms))


def binary_quality(judged: Sequence[tuple[float, float]], threshold: float) -> Mapping[str, float]:
    """The metrics of predictions and labels, pair by pair; labels other than 0 and 1 are passed."""
    pairs = [(p, y) for p, y in judged if math.isfinite(p) and y in (0.0, 1.0)]
    said = [(p >= threshold, y == 1.0) for p, y in pairs]
    tp, fp = said.count((True, True)), said.count((True, False))
    tn, fn = said.count((False, False)), said.count((False, True))
    found: dict[str, float] = {
        "label_count": len(pairs),
        "true_positives": tp,
        "false_positives": fp,
        "true_negatives": tn,
        "false_negatives": fn,
    }
    for name, above, below in (
        ("accuracy", tp + tn, len(pairs)),
        ("precision", tp, tp + fp),
        ("recall", tp, tp + fn),
        ("f1_score", 2 * tp, 2 * tp + fp + fn),
    ):
        if below:
            found[name] = above / below
    if pairs:
        clipped = [(min(max(p, _CLIP), 1 - _CLIP), y) for p, y in pairs]
        losses = [-math.log(p) if y == 1.0 else -math.log(1 - p) for p, y in clipped]
        found["log_loss"] = math.fsum(losses) / len(pairs)
    ones, zeros = [p for p, y in pairs if y == 1.0], [p for p, y in pairs if y == 0.0]
    if ones and zeros:
        wins = sum((a > b) + 0.5 * (a == b) for a in ones for b in zeros)
        found["roc_auc"] = wins / (len(ones) * len(zeros))
    return found


def regression_quality(judged: Sequence[tuple[float, float]]) -> Mapping[str, float]:
    """The metrics of predictions and labels, pair by pair."""
    pairs = np.array([pair for pair in judged if all(map(math.isfinite, pair))], np.float64)
    found: dict[str, float] = {"label_count": len(pairs)}
    if not len(pairs):
        return found
    p, y = pairs[:, 0], pairs[:, 1]
    squared = float(np.mean((p - y) ** 2))
    found |= {
        "mean_squared_error": squared,
        "root_mean_squared_error": math.sqrt(squared),
        "mean_absolute_error": float(np.mean(np.abs(p - y))),
        "mean_absolute_percentage_error": float(
            np.mean(np.abs(p - y) / np.maximum(np.abs(y), _EPSILON))
        ),
    }
    if len(pairs) > 1 and np.var(y) > 0:
        found["r2_score"] = 1 - squared / float(np.var(y))
    return found
