"""The definitions of the metrics, against values worked out by hand and from tables."""

from __future__ import annotations

import math

import pytest

from services.monitoring.adapters.memory import statistics
from services.monitoring.adapters.memory.statistics import Sample


@pytest.mark.parametrize(
    ("freedom", "quantile", "tail"),
    [(1, 3.841459, 0.05), (2, 5.991465, 0.05), (5, 15.086272, 0.01), (10, 18.307038, 0.05)],
)
def test_chi_squared_tail_at_its_tabled_quantiles(
    freedom: int, quantile: float, tail: float
) -> None:
    assert statistics.chi_squared_tail(quantile, freedom) == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize(
    ("x", "tail"), [(1.223848, 0.10), (1.358099, 0.05), (1.627624, 0.01), (0.0, 1.0), (9.0, 0.0)]
)
def test_kolmogorov_tail_at_its_tabled_quantiles(x: float, tail: float) -> None:
    assert statistics.kolmogorov_tail(x) == pytest.approx(tail, abs=1e-6)


def numbers(*values: float) -> Sample:
    return Sample(True, values)


def test_equal_samples_do_not_differ() -> None:
    found = statistics.drift(numbers(1, 2, 2, 5), numbers(5, 2, 1, 2))
    assert found["ks_test.statistic"] == found["wasserstein_distance"] == 0
    assert found["population_stability_index"] == found["js_distance"] == 0
    assert found["ks_test.pvalue"] == 1


def test_a_shift_is_its_own_wasserstein_distance() -> None:
    found = statistics.drift(numbers(10, 11, 12), numbers(0, 1, 2))
    assert found["wasserstein_distance"] == pytest.approx(10)
    assert found["ks_test.statistic"] == 1
    assert found["avg_delta"] == 10


def test_ties_are_not_a_distance() -> None:
    found = statistics.drift(numbers(1, 1), numbers(1))
    assert found["ks_test.statistic"] == 0


def test_a_constant_reference_is_looked_at_on_both_sides() -> None:
    above = statistics.drift(numbers(7, 7), numbers(5, 5, 5))
    below = statistics.drift(numbers(3, 3), numbers(5, 5, 5))
    expected = 2 * (1 - 1e-4) * math.log(1 / 1e-4)
    assert above["population_stability_index"] == pytest.approx(expected)
    assert below["population_stability_index"] == pytest.approx(expected)
    assert above["js_distance"] == pytest.approx(1)


def test_categories() -> None:
    found = statistics.drift(
        Sample(False, ["a"] * 10 + ["b"] * 20), Sample(False, ["a"] * 20 + ["b"] * 10)
    )
    # Of the table [[10, 20], [20, 10]] every expected count is 15.
    assert found["chi_squared_test.statistic"] == pytest.approx(4 * 25 / 15)
    assert found["chi_squared_test.pvalue"] == pytest.approx(math.erfc(math.sqrt(10 / 3)), rel=1e-9)
    assert found["tv_distance"] == pytest.approx(1 / 3)
    assert found["l_infinity_distance"] == pytest.approx(1 / 3)
    assert found["population_stability_index"] == pytest.approx(2 / 3 * math.log(2))


def test_disjoint_categories_are_as_far_as_can_be() -> None:
    found = statistics.drift(Sample(False, ["a", "a"]), Sample(False, ["b"]))
    assert found["tv_distance"] == found["l_infinity_distance"] == 1
    assert found["js_distance"] == pytest.approx(1)


def test_binary_quality_by_hand() -> None:
    judged = [(0.9, 1.0), (0.8, 0.0), (0.4, 1.0), (0.4, 0.0), (0.2, 5.0)]
    found = statistics.binary_quality(judged, 0.5)
    assert found["label_count"] == 4
    assert found["accuracy"] == found["precision"] == found["recall"] == found["f1_score"] == 0.5
    # Of the four pairs of a one and a zero two are in order and one is a tie.
    assert found["roc_auc"] == pytest.approx(2.5 / 4)
    losses = [math.log(0.9), math.log(0.2), math.log(0.4), math.log(0.6)]
    assert found["log_loss"] == pytest.approx(-sum(losses) / 4)


def test_what_is_not_defined_is_left_out() -> None:
    assert "roc_auc" not in statistics.binary_quality([(0.9, 1.0)], 0.5)
    assert "precision" not in statistics.binary_quality([(0.1, 1.0)], 0.5)
    assert "accuracy" not in statistics.binary_quality([], 0.5)
    assert "r2_score" not in statistics.regression_quality([(1.0, 2.0), (3.0, 2.0)])
    assert statistics.regression_quality([]) == {"label_count": 0}


def test_regression_quality_by_hand() -> None:
    found = statistics.regression_quality([(2.0, 1.0), (2.0, 3.0), (math.nan, 3.0)])
    assert found == pytest.approx(
        {
            "label_count": 2,
            "mean_squared_error": 1,
            "root_mean_squared_error": 1,
            "mean_absolute_error": 1,
            "mean_absolute_percentage_error": 2 / 3,
            "r2_score": 0,
        }
    )
