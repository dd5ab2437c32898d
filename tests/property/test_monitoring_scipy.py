"""The metrics' definitions equal scipy's and scikit-learn's, where these define the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import special, stats
from scipy.spatial import distance
from sklearn import metrics

from services.monitoring.adapters.memory import statistics
from services.monitoring.adapters.memory.statistics import Sample

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

# Ties, negative numbers and different sizes; scipy refuses what is not finite.
value = st.one_of(
    st.sampled_from([-1.0, 0.0, 1.0, 2.5]),
    st.floats(-1e4, 1e4).map(lambda number: round(number, 2)),
)
# Of one value on each side scipy's p-value divides by nothing.
numbers = st.lists(value, min_size=2, max_size=60)
words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


def close(expected: float) -> object:
    return pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(numbers, numbers)
def test_numbers(now: list[float], then: list[float]) -> None:
    found = statistics.drift(Sample(True, now), Sample(True, then))
    assert found["avg_delta"] == close(float(np.mean(now) - np.mean(then)))
    assert found["wasserstein_distance"] == close(stats.wasserstein_distance(now, then))
    test = stats.ks_2samp(now, then, method="asymp")
    assert found["ks_test.statistic"] == close(test.statistic)
    scale = math.sqrt(len(now) * len(then) / (len(now) + len(then)))
    assert found["ks_test.pvalue"] == close(special.kolmogorov(scale * test.statistic))


# A number that is an edge, where the levels are tenths and not sums of 0.1.
@example([-1.0, 0.3], [-1.0] * 6 + [0.0, 1.0, 1.0, 1.0])
@given(numbers, numbers)
def test_shares_of_numbers(now: list[float], then: list[float]) -> None:
    edges = np.unique(np.quantile(then, [tenth / 10 for tenth in range(1, 10)], method="linear"))
    # The definition has three bins for one edge; here only the bins between edges.
    assume(len(edges) > 1)
    found = statistics.drift(Sample(True, now), Sample(True, then))
    q, p = (shares(np.digitize(side, edges, right=True), len(edges)) for side in (now, then))
    assert_shares(found, q, p)


def shares(bins: Floats, edges: int) -> Floats:
    return np.bincount(bins.astype(np.int64), minlength=edges + 1) / len(bins)


@given(words, words)
def test_texts(now: list[str], then: list[str]) -> None:
    found = statistics.drift(Sample(False, now), Sample(False, then))
    names = sorted({*now, *then})
    table = np.array([[Counter(side)[name] for name in names] for side in (now, then)])
    q, p = table / table.sum(axis=1, keepdims=True)
    assert_shares(found, q, p)
    assert found["tv_distance"] == close(distance.cityblock(q, p) / 2)
    assert found["l_infinity_distance"] == close(distance.chebyshev(q, p))
    test = stats.chi2_contingency(table, correction=False)
    assert found["chi_squared_test.statistic"] == close(test.statistic)
    assert found["chi_squared_test.pvalue"] == close(test.pvalue)


def assert_shares(found: dict[str, float], q: Floats, p: Floats) -> None:
    assert found["js_distance"] == close(distance.jensenshannon(q, p, base=2))
    # A population stability index is both relative entropies, of shares that are not nothing.
    q, p = np.maximum(q, 1e-4), np.maximum(p, 1e-4)
    symmetric = np.sum(special.rel_entr(q, p) + special.rel_entr(p, q))
    assert found["population_stability_index"] == close(float(symmetric))


@given(st.floats(0, 5))
def test_the_limit_distribution_of_kolmogorov(x: float) -> None:
    assert statistics.kolmogorov_tail(x) == close(float(special.kolmogorov(x)))


@given(st.floats(0, 1e4), st.integers(1, 300))
def test_the_tail_of_chi_squared(x: float, freedom: int) -> None:
    assert statistics.chi_squared_tail(x, freedom) == close(float(stats.chi2.sf(x, freedom)))


@given(st.integers(200, 2000), st.integers(200, 2000), st.floats(0, 0.15))
def test_p_values_are_those_of_large_samples(now: int, then: int, shift: float) -> None:
    # scipy corrects the limit distribution for the samples' sizes; with many rows both agree.
    even = [np.arange(1, size + 1) / (size + 1) for size in (now, then)]
    mine = even[0] + shift
    found = statistics.drift(Sample(True, list(mine)), Sample(True, list(even[1])))
    expected = stats.ks_2samp(mine, even[1], method="asymp").pvalue
    assert found["ks_test.pvalue"] == pytest.approx(expected, abs=0.03)


probability = st.floats(0, 1).map(lambda p: round(p, 2))
pairs = st.lists(st.tuples(probability, st.sampled_from([0.0, 1.0])), min_size=2, max_size=60)


@given(pairs, st.sampled_from([0.3, 0.5]))
def test_classification(judged: list[tuple[float, float]], threshold: float) -> None:
    scores, labels = columns(judged)
    assume(0 < labels.sum() < len(labels))
    found = statistics.binary_quality(judged, threshold)
    said = scores >= threshold
    tn, fp, fn, tp = metrics.confusion_matrix(labels, said, labels=[0, 1]).ravel()
    assert [found[name] for name in CONFUSION] == [tp, fp, tn, fn]
    assert found["accuracy"] == close(metrics.accuracy_score(labels, said))
    assert found["roc_auc"] == close(metrics.roc_auc_score(labels, scores))
    assert found["recall"] == close(metrics.recall_score(labels, said))
    for name, score in (("precision", metrics.precision_score), ("f1_score", metrics.f1_score)):
        if name in found:
            assert found[name] == close(score(labels, said))
    # scikit-learn clips by the number type's resolution, and this by less.
    if scores.min() > 0 and scores.max() < 1:
        assert found["log_loss"] == close(metrics.log_loss(labels, scores))


CONFUSION = ("true_positives", "false_positives", "true_negatives", "false_negatives")


@given(st.lists(st.tuples(value, value), min_size=2, max_size=60))
def test_regression(judged: list[tuple[float, float]]) -> None:
    predictions, labels = columns(judged)
    found = statistics.regression_quality(judged)
    expected = {
        "mean_squared_error": metrics.mean_squared_error,
        "root_mean_squared_error": metrics.root_mean_squared_error,
        "mean_absolute_error": metrics.mean_absolute_error,
        "mean_absolute_percentage_error": metrics.mean_absolute_percentage_error,
    }
    for name, score in expected.items():
        assert found[name] == close(score(labels, predictions)), name
    if "r2_score" in found:
        assert found["r2_score"] == close(metrics.r2_score(labels, predictions))


def columns(judged: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
    both = np.array(judged, np.float64)
    return both[:, 0], both[:, 1]
