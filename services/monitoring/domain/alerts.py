"""Alert rules: judging a window, counting windows in a row, firing and resolving, and saying so."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from services.monitoring.domain.metrics import METRICS, TABLE_COLUMN, Scope
from services.monitoring.domain.monitor import AlertRule, Comparison
from services.monitoring.domain.windows import WindowRecord, moment

__all__ = ["Alert", "AlertState", "Verdict", "describe", "judge", "next_alert"]


class AlertState(enum.Enum):
    """Whether the rule is met."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a window met a rule, and by which column most clearly."""

    start_us: int
    end_us: int
    met: bool
    column: str
    value: float


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule that was met."""

    id: str
    monitor: str
    rule: str
    state: AlertState
    start_us: int
    """The window that made it fire."""
    end_us: int
    metric: str
    column: str
    value: float
    threshold: float
    message: str
    fired_at: datetime
    resolved_at: datetime | None = None


def judge(rule: AlertRule, window: WindowRecord, values: Mapping[str, float]) -> Verdict | None:
    """Judge a window by a rule.

    Args:
        rule: The rule.
        window: The window, closed.
        values: The rule's metric by column, over all rows; ":table" for one of the whole window.

    Returns:
        None when the window cannot be judged: too few rows, or no value of the metric, as for
        quality before labels arrive. Such a window neither continues nor ends a row of windows.
    """
    if window.row_count < rule.minimum_rows:
        return None
    if METRICS[rule.metric].scope is Scope.WINDOW:
        looked_at = [TABLE_COLUMN] if TABLE_COLUMN in values else []
    else:
        looked_at = [column for column in (rule.columns or values) if column in values]
    greater = rule.comparison is Comparison.GREATER
    finite = [(values[column], column) for column in looked_at if math.isfinite(values[column])]
    if not finite:
        return None
    value, column = (
        max(finite, key=lambda item: item[0]) if greater else min(finite, key=lambda item: item[0])
    )
    met = value > rule.threshold if greater else value < rule.threshold
    return Verdict(window.start_us, window.end_us, met, column, value)


def next_alert(
    *,
    monitor: str,
    table: str,
    rule: AlertRule,
    verdicts: Sequence[Verdict],
    active: Alert | None,
    now: datetime,
    new_id: str,
) -> Alert | None:
    """What the verdicts so far make of a rule's alert.

    Args:
        monitor: The monitor's name.
        table: The watched table's full name, for the text.
        rule: The rule.
        verdicts: The latest verdicts, the earliest first; at least `consecutive_windows` of them
            where there are so many.
        active: The rule's alert that is firing, if one is.
        now: The time of the change.
        new_id: The id of an alert that begins.

    Returns:
        The alert that fired or was resolved; None when nothing changed.
    """
    needed = max(1, rule.consecutive_windows)
    last = verdicts[-1] if verdicts else None
    if last is None:
        return None
    if active is not None:
        if last.met:
            return None
        return replace(active, state=AlertState.RESOLVED, resolved_at=now)
    recent = verdicts[-needed:]
    if len(recent) < needed or not all(verdict.met for verdict in recent):
        return None
    return Alert(
        id=new_id,
        monitor=monitor,
        rule=rule.name,
        state=AlertState.FIRING,
        start_us=last.start_us,
        end_us=last.end_us,
        metric=rule.metric,
        column=last.column,
        value=last.value,
        threshold=rule.threshold,
        message=describe(rule, last, table),
        fired_at=now,
    )


_WORDS: Final = {
    "avg": "average",
    "avg_delta": "change of the average",
    "avg_length": "average length",
    "chi_squared_test.pvalue": "p-value of the chi-squared test",
    "chi_squared_test.statistic": "statistic of the chi-squared test",
    "count": "number of values",
    "count_delta": "change of the number of values",
    "distinct_count": "number of distinct values",
    "f1_score": "F1 score",
    "js_distance": "Jensen-Shannon distance",
    "ks_test.pvalue": "p-value of the Kolmogorov-Smirnov test",
    "ks_test.statistic": "statistic of the Kolmogorov-Smirnov test",
    "l_infinity_distance": "L-infinity distance",
    "max": "maximum",
    "min": "minimum",
    "num_nan": "number of values that are not numbers",
    "num_nulls": "number of nulls",
    "num_zeros": "number of zeros",
    "percent_distinct": "percentage of distinct values",
    "percent_distinct_delta": "change of the percentage of distinct values",
    "percent_nan": "percentage of values that are not numbers",
    "percent_null": "percentage of nulls",
    "percent_null_delta": "change of the percentage of nulls",
    "percent_zeros": "percentage of zeros",
    "percent_zeros_delta": "change of the percentage of zeros",
    "r2_score": "R² score",
    "roc_auc": "area under the ROC curve",
    "row_count": "number of rows",
    "stddev": "standard deviation",
    "tv_distance": "total variation distance",
}


def describe(rule: AlertRule, verdict: Verdict, table: str) -> str:
    """What happened, in a sentence for people."""
    metric = _WORDS.get(rule.metric, rule.metric.replace("_", " "))
    whole = verdict.column == TABLE_COLUMN
    subject = f"the {metric}" if whole else f"the {metric} of column {verdict.column!r}"
    side = "above" if rule.comparison is Comparison.GREATER else "below"
    text = (
        f"In {table}, {subject} is {_number(verdict.value)}, {side} the threshold of "
        f"{_number(rule.threshold)}, in the window {_span(verdict)}"
    )
    if rule.consecutive_windows > 1:
        text += f", the last of {rule.consecutive_windows} windows in a row"
    return text + "."


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def _span(verdict: Verdict) -> str:
    start, end = moment(verdict.start_us), moment(verdict.end_us)
    if start == end:
        return f"of {start:%Y-%m-%d %H:%M:%S} UTC"
    day = all((t.hour, t.minute, t.second) == (0, 0, 0) for t in (start, end))
    shape = "%Y-%m-%d" if day else "%Y-%m-%d %H:%M:%S"
    return f"from {start:{shape}} to {end:{shape}} UTC"
