"""Every metric that windows have: its public name, its column in the metric tables, its scope.

Profile metrics describe one window; drift metrics compare a window with its baseline or with the
window before. README.md gives the definitions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = [
    "COLUMN_DRIFT",
    "DRIFT_METRICS",
    "METRICS",
    "PROFILE_METRICS",
    "TABLE_COLUMN",
    "WINDOW_DRIFT",
    "DriftType",
    "Metric",
    "MetricTable",
    "Scope",
]

TABLE_COLUMN: Final = ":table"
"""The column name that stands for the window as a whole."""


class MetricTable(enum.Enum):
    """Which of a monitor's two tables holds a metric."""

    PROFILE = "profile"
    DRIFT = "drift"


class Scope(enum.Enum):
    """What a metric is of."""

    COLUMN = "column"
    WINDOW = "window"


class DriftType(enum.Enum):
    """What a window is compared with."""

    BASELINE = "BASELINE"
    CONSECUTIVE = "CONSECUTIVE"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """Public name, as alert rules and `ListMetrics` use it."""
    field: str
    """Its column in the metric table."""
    table: MetricTable
    """The table that holds it."""
    scope: Scope
    """Whether each column has one, or the window."""


def _profile(scope: Scope, *names: str) -> tuple[Metric, ...]:
    return tuple(Metric(name, name, MetricTable.PROFILE, scope) for name in names)


def _drift(scope: Scope, *names: str) -> tuple[Metric, ...]:
    return tuple(Metric(name, name.replace(".", "_"), MetricTable.DRIFT, scope) for name in names)


PROFILE_METRICS: Final = (
    *_profile(Scope.COLUMN, "count", "num_nulls", "num_nan", "num_zeros", "distinct_count"),
    *_profile(Scope.COLUMN, "avg", "min", "max", "stddev", "median"),
    *_profile(Scope.COLUMN, "min_length", "max_length", "avg_length"),
    *_profile(Scope.COLUMN, "percent_null", "percent_nan", "percent_zeros", "percent_distinct"),
    *_profile(Scope.WINDOW, "row_count", "label_count"),
    *_profile(Scope.WINDOW, "true_positives", "false_positives"),
    *_profile(Scope.WINDOW, "true_negatives", "false_negatives"),
    *_profile(Scope.WINDOW, "accuracy", "precision", "recall", "f1_score", "roc_auc", "log_loss"),
    *_profile(Scope.WINDOW, "mean_squared_error", "root_mean_squared_error"),
    *_profile(Scope.WINDOW, "mean_absolute_error", "mean_absolute_percentage_error", "r2_score"),
)
COLUMN_DRIFT: Final = _drift(
    Scope.COLUMN,
    "count_delta",
    "avg_delta",
    "percent_null_delta",
    "percent_zeros_delta",
    "percent_distinct_delta",
    "ks_test.statistic",
    "ks_test.pvalue",
    "wasserstein_distance",
    "population_stability_index",
    "js_distance",
    "tv_distance",
    "l_infinity_distance",
    "chi_squared_test.statistic",
    "chi_squared_test.pvalue",
)
WINDOW_DRIFT: Final = _drift(
    Scope.WINDOW, "non_null_columns_delta.added", "non_null_columns_delta.missing"
)
DRIFT_METRICS: Final = (*COLUMN_DRIFT, *WINDOW_DRIFT)
METRICS: Final = {metric.name: metric for metric in (*PROFILE_METRICS, *DRIFT_METRICS)}
"""Every metric by its public name."""
