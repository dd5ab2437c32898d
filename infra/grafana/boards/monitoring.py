"""Monitors: their windows, drift by column, quality by slice, profiles and alerts.

Windows lie on the rows' own time, which may be years ago; the first table sets the time range.
"""

from __future__ import annotations

from typing import Final

from infra.grafana.boards import promql
from infra.grafana.boards.model import (
    ClickHouseVariable,
    Column,
    Dashboard,
    Kind,
    Link,
    Panel,
    Prom,
    Row,
    Shape,
    Sql,
    Step,
    stat,
    steps,
)
from tessera_kit.telemetry import names

__all__ = ["MONITORING"]

# `source` is put in as "<database>`.`<prefix>": one choice names both tables of a monitor.
_PROFILES: Final = "`${source}_profile_metrics` FINAL"
_DRIFT: Final = "`${source}_drift_metrics` FINAL"
_OF_MONITOR: Final = "monitor_name = ${monitor:sqlstring} AND $__timeFilter(window_start)"
_WINDOWS: Final = f"""
    FROM {_PROFILES}
    WHERE {_OF_MONITOR} AND log_type = 'INPUT' AND column_name = ':table'
"""
_ALL_ROWS: Final = f"{_WINDOWS} AND slice_key = ''"
_MONITOR: Final = {names.MONITOR: '="$monitor"'}


def _drift(
    title: str,
    metric: str,
    description: str,
    thresholds: tuple[Step, ...] = (),
    *,
    minimum: float | None = 0,
    unit: str = "short",
) -> Panel:
    """A drift metric of the chosen columns, over all rows."""
    return Panel(
        title,
        description,
        (
            Sql(
                f"""
                SELECT window_start AS time, column_name AS series, {metric}
                FROM {_DRIFT}
                WHERE {_OF_MONITOR} AND drift_type = ${{comparison:sqlstring}}
                    AND slice_key = '' AND column_name IN (${{column:sqlstring}})
                    AND isNotNull({metric})
                ORDER BY time, series
                """,
                Shape.TIME_SERIES,
            ),
        ),
        thresholds=thresholds,
        minimum=minimum,
        unit=unit,
        points=True,
    )


def _quality(
    title: str,
    metric: str,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "short",
) -> Panel:
    """A quality metric of all rows and of each slice."""
    return Panel(
        title,
        description,
        (
            Sql(
                f"""
                SELECT
                    window_start AS time,
                    if(slice_key = '', 'all rows', concat(slice_key, ' ', slice_value)) AS series,
                    {metric}
                {_WINDOWS}
                    AND slice_key IN ('', ${{slice:sqlstring}}) AND isNotNull({metric})
                ORDER BY time, series
                """,
                Shape.TIME_SERIES,
            ),
        ),
        minimum=minimum,
        maximum=maximum,
        unit=unit,
        points=True,
    )


def _profile(title: str, metric: str, description: str, *, unit: str = "short") -> Panel:
    """A profile metric of the chosen columns, over all rows."""
    return Panel(
        title,
        description,
        (
            Sql(
                f"""
                SELECT window_start AS time, column_name AS series, {metric}
                FROM {_PROFILES}
                WHERE {_OF_MONITOR} AND log_type = 'INPUT' AND slice_key = ''
                    AND column_name IN (${{column:sqlstring}}) AND isNotNull({metric})
                ORDER BY time, series
                """,
                Shape.TIME_SERIES,
            ),
        ),
        minimum=None,
        unit=unit,
        points=True,
    )


_NOW: Final = Row(
    "Monitors",
    (
        Panel(
            "Monitors and where their windows lie",
            "Every monitor of the chosen tables. Click its name to look at the time of its windows "
            "and not at the wall clock's.",
            (
                Sql(
                    f"""
                    SELECT
                        monitor_name AS monitor,
                        any(granularity) AS window,
                        uniqExact(window_start) AS windows,
                        min(window_start) AS first,
                        max(window_end) AS last,
                        sum(row_count) AS rows,
                        sum(label_count) AS labels,
                        max(computed_at) AS computed,
                        toUnixTimestamp64Milli(min(window_start)) - 3600000 AS from_ms,
                        toUnixTimestamp64Milli(max(window_end)) + 3600000 AS to_ms
                    FROM {_PROFILES}
                    WHERE log_type = 'INPUT' AND column_name = ':table' AND slice_key = ''
                    GROUP BY monitor
                    ORDER BY computed DESC
                    """,
                ),
            ),
            kind=Kind.TABLE,
            columns=(
                Column(
                    "monitor",
                    link=Link(
                        "Its windows",
                        "/d/tessera-monitoring?var-source=${source:percentencode}"
                        "&var-monitor=${__value.raw}"
                        "&from=${__data.fields.from_ms}&to=${__data.fields.to_ms}",
                    ),
                ),
                Column("first", "dateTimeAsIso", 170),
                Column("last", "dateTimeAsIso", 170),
                Column("computed", "dateTimeAsIso", 170),
            ),
            width=16,
        ),
        stat(
            "Windows",
            "Windows in the time range whose metrics are computed.",
            Sql(f"SELECT uniqExact(window_start) AS windows {_ALL_ROWS}"),
            empty="0",
        ),
        stat(
            "Rows",
            "Rows in those windows.",
            Sql(f"SELECT sum(row_count) AS rows {_ALL_ROWS}"),
            empty="0",
        ),
        stat(
            "Labelled",
            "Share of the rows whose true outcome is known.",
            Sql(f"SELECT sum(label_count) / sum(row_count) AS share {_ALL_ROWS}"),
            unit="percentunit",
            empty="0",
        ),
        stat(
            "Alerts fired",
            "Alerts of the monitor that fired in the last hours of the wall clock's time range.",
            Prom(promql.increase(promql.total(names.MONITOR_ALERTS), where=_MONITOR)),
            thresholds=steps(1),
            empty="0",
        ),
    ),
)

_WINDOW_ROW: Final = Row(
    "Windows",
    (
        Panel(
            "Rows by window",
            "Rows of each window, and how many of them have a label.",
            (
                Sql(
                    "SELECT window_start AS time, row_count AS rows, "
                    f"ifNull(label_count, 0) AS labelled {_ALL_ROWS} ORDER BY time",
                    Shape.TIME_SERIES,
                ),
            ),
            points=True,
        ),
        Panel(
            "Windows computed",
            "How many windows each monitor computes per second; a window is computed again when "
            "labels or rows come late.",
            (
                Prom(
                    promql.rate(promql.total(names.MONITOR_WINDOWS), (names.MONITOR,)),
                    "{{tessera_monitor_name}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Labels",
            "Labels that arrive per second, by monitor and by what became of them.",
            (
                Prom(
                    promql.rate(promql.total(names.MONITOR_LABELS), (names.MONITOR, names.OUTCOME)),
                    "{{tessera_monitor_name}} {{tessera_outcome}}",
                ),
            ),
            unit="cps",
        ),
    ),
)

_DRIFT_ROW: Final = Row(
    "Drift: what the windows are compared with is chosen above",
    (
        _drift(
            "Population stability index",
            "population_stability_index",
            "How far a column's distribution has moved. Below 0.1 little, above 0.25 a lot.",
            steps(0.1, 0.25),
        ),
        _drift(
            "Jensen-Shannon distance",
            "js_distance",
            "Distance of two distributions, 0 (the same) to 1 (nothing in common).",
            steps(0.1, 0.2),
        ),
        _drift(
            "Kolmogorov-Smirnov statistic",
            "ks_test_statistic",
            "Numbers only: the largest gap between the two cumulative distributions, 0 to 1.",
            steps(0.1, 0.2),
        ),
        _drift(
            "Wasserstein distance",
            "wasserstein_distance",
            "Numbers only: how far values moved on average, in the column's own unit.",
        ),
        _drift(
            "Total variation distance",
            "tv_distance",
            "Categories only: the share of rows that would have to change their value.",
            steps(0.1, 0.2),
        ),
        _drift(
            "Chi-squared test, p-value",
            "chi_squared_test_pvalue",
            "Categories only: how likely such a difference is by chance. With many rows it is "
            "small for differences that do not matter: look at a distance too.",
        ),
        _drift(
            "Change of the mean",
            "avg_delta",
            "Numbers only: the window's mean less that of what it is compared with.",
            minimum=None,
        ),
        _drift(
            "Change of nulls",
            "percent_null_delta",
            "Percentage points of nulls more than in what it is compared with.",
            minimum=None,
            unit="percent",
        ),
        Panel(
            "Columns by drift",
            "The greatest drift of each column in the time range, and when it was.",
            (
                Sql(
                    f"""
                    SELECT
                        column_name AS column,
                        max(population_stability_index) AS psi,
                        max(js_distance) AS js,
                        argMax(window_start, ifNull(js_distance, 0)) AS worst
                    FROM {_DRIFT}
                    WHERE {_OF_MONITOR} AND drift_type = ${{comparison:sqlstring}}
                        AND slice_key = '' AND column_name != ':table'
                    GROUP BY column
                    ORDER BY js DESC NULLS LAST
                    LIMIT 100
                    """,
                ),
            ),
            kind=Kind.TABLE,
            columns=(Column("worst", "dateTimeAsIso"),),
        ),
    ),
)

_QUALITY_ROW: Final = Row(
    "Quality: all rows, and cut by the column chosen above",
    (
        _quality(
            "Area under the ROC curve",
            "roc_auc",
            "How well the prediction ranks: 0.5 is chance, 1 is perfect.",
            maximum=1,
        ),
        _quality("Accuracy", "accuracy", "Share of right decisions.", maximum=1),
        _quality(
            "F1 score", "f1_score", "Harmonic mean of precision and recall.", minimum=0, maximum=1
        ),
        _quality(
            "Precision",
            "precision",
            "Share of the predicted positives that are positive.",
            minimum=0,
            maximum=1,
        ),
        _quality(
            "Recall",
            "recall",
            "Share of the positives that were predicted.",
            minimum=0,
            maximum=1,
        ),
        _quality("Log loss", "log_loss", "How wrong the probabilities are; 0 is perfect."),
        _quality(
            "Root mean squared error",
            "root_mean_squared_error",
            "Regression: typical error, in the label's unit.",
            minimum=0,
        ),
        _quality(
            "Mean absolute error",
            "mean_absolute_error",
            "Regression: mean size of the error, in the label's unit.",
            minimum=0,
        ),
        _quality("Labels", "label_count", "Labelled rows that the quality stands on.", minimum=0),
    ),
)

_PROFILE_ROW: Final = Row(
    "Profiles",
    (
        _profile("Mean", "avg", "Mean of each column's numbers."),
        _profile("Standard deviation", "stddev", "Spread of each column's numbers."),
        _profile("Median", "median", "Median of each column's numbers."),
        _profile("Nulls", "percent_null", "Share of rows without a value.", unit="percent"),
        _profile("Zeros", "percent_zeros", "Share of rows with the value 0.", unit="percent"),
        _profile("Distinct values", "distinct_count", "Different values of each column."),
    ),
    closed=True,
)

_ALERT_ROW: Final = Row(
    "Alerts",
    (
        Panel(
            "What the alerts said",
            "Alerts as they fired and were resolved, by the wall clock; the latest first.",
            (
                Sql(
                    """
                    SELECT
                        Timestamp AS timestamp,
                        Body AS body,
                        SeverityText AS level,
                        TraceId AS trace_id
                    FROM otel_logs
                    WHERE $__timeFilter(TimestampTime) AND ServiceName = 'monitoring'
                        AND match(Body, '^alert (firing|resolved) of monitor ')
                    ORDER BY Timestamp DESC
                    LIMIT 200
                    """,
                    Shape.LOGS,
                ),
            ),
            kind=Kind.LOGS,
            width=16,
        ),
        Panel(
            "Alerts fired by monitor",
            "Alerts that fired per second, by the wall clock.",
            (
                Prom(
                    promql.rate(promql.total(names.MONITOR_ALERTS), (names.MONITOR,)),
                    "{{tessera_monitor_name}}",
                ),
            ),
            unit="cps",
        ),
    ),
)

MONITORING: Final = Dashboard(
    uid="tessera-monitoring",
    title="Monitoring",
    description="Monitors: windows, drift by column, quality by version, profiles and alerts.",
    span="30d",
    refresh="30s",
    variables=(
        ClickHouseVariable(
            "source",
            "Tables of metrics",
            """
            SELECT
                concat(database, '`.`', replaceRegexpOne(name, '_profile_metrics$', '')) AS value,
                concat(database, '.', replaceRegexpOne(name, '_profile_metrics$', '')) AS text
            FROM system.tables
            WHERE endsWith(name, '_profile_metrics')
                AND startsWith(database, concat(currentDatabase(), '_'))
            ORDER BY metadata_modification_time DESC
            """,
        ),
        ClickHouseVariable(
            "monitor",
            "Monitor",
            "SELECT DISTINCT monitor_name FROM `${source}_profile_metrics` ORDER BY monitor_name",
        ),
        ClickHouseVariable(
            "comparison",
            "Compared with",
            """
            SELECT DISTINCT drift_type FROM `${source}_drift_metrics`
            WHERE monitor_name = ${monitor:sqlstring} ORDER BY drift_type
            """,
        ),
        ClickHouseVariable(
            "column",
            "Column",
            """
            SELECT DISTINCT column_name FROM `${source}_profile_metrics`
            WHERE monitor_name = ${monitor:sqlstring} AND column_name != ':table'
            ORDER BY column_name
            """,
            many=True,
        ),
        ClickHouseVariable(
            "slice",
            "Cut by",
            """
            SELECT DISTINCT slice_key FROM `${source}_profile_metrics`
            WHERE monitor_name = ${monitor:sqlstring} AND slice_key != ''
            ORDER BY slice_key
            """,
        ),
    ),
    rows=(_NOW, _WINDOW_ROW, _DRIFT_ROW, _QUALITY_ROW, _PROFILE_ROW, _ALERT_ROW),
)
