"""Alert rules: judging windows, firing after so many in a row, resolving, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from services.monitoring.domain.alerts import (
    Alert,
    AlertState,
    Verdict,
    describe,
    judge,
    next_alert,
)
from services.monitoring.domain.monitor import AlertRule, Comparison
from services.monitoring.domain.windows import WindowRecord, WindowState, microseconds
from tests.monitoring_world import DAY_US, NOW, SPRING

FIRST = microseconds(SPRING)
DRIFT = AlertRule("drift", "population_stability_index", Comparison.GREATER, 0.2)
QUALITY = AlertRule("auc", "roc_auc", Comparison.LESS, 0.7)


def window(rows: int = 100) -> WindowRecord:
    return WindowRecord(FIRST, FIRST + DAY_US, WindowState.CLOSED, rows)


def verdict(day: int, met: bool) -> Verdict:
    start = FIRST + day * DAY_US
    return Verdict(start, start + DAY_US, met, "distance", 0.3 if met else 0.1)


def follow(rule: AlertRule, story: Sequence[bool]) -> list[str]:
    """What happens window by window: f for fired, r for resolved, - for nothing."""
    verdicts: list[Verdict] = []
    active: Alert | None = None
    seen = []
    for day, met in enumerate(story):
        verdicts.append(verdict(day, met))
        alert = next_alert(
            monitor="m",
            table="a.b.c",
            rule=rule,
            verdicts=verdicts[-max(1, rule.consecutive_windows) :],
            active=active,
            now=NOW,
            new_id=f"alert-{day}",
        )
        if alert is None:
            seen.append("-")
            continue
        seen.append("f" if alert.state is AlertState.FIRING else "r")
        active = alert if alert.state is AlertState.FIRING else None
    return seen


def test_the_column_that_meets_the_rule_most_clearly_is_named() -> None:
    values = {"hour": 0.1, "distance": 0.45, "carrier": 0.3}
    found = judge(DRIFT, window(), values)
    assert found == Verdict(FIRST, FIRST + DAY_US, True, "distance", 0.45)
    less = replace(DRIFT, comparison=Comparison.LESS, threshold=0.2)
    assert judge(less, window(), values) == Verdict(FIRST, FIRST + DAY_US, True, "hour", 0.1)


def test_only_the_rules_columns_are_looked_at() -> None:
    rule = replace(DRIFT, columns=("hour", "absent"))
    found = judge(rule, window(), {"hour": 0.1, "distance": 0.45})
    assert found is not None
    assert (found.met, found.column) == (False, "hour")


def test_columns_do_not_matter_to_a_metric_of_the_window() -> None:
    rule = replace(QUALITY, columns=("hour",))
    found = judge(rule, window(), {":table": 0.6})
    assert found is not None
    assert found.met


@pytest.mark.parametrize("values", [{}, {"x": math.nan}, {"x": math.inf}])
def test_without_a_finite_value_a_window_is_not_judged(values: dict[str, float]) -> None:
    assert judge(DRIFT, window(), values) is None


def test_a_window_with_too_few_rows_is_not_judged() -> None:
    rule = replace(DRIFT, minimum_rows=50)
    assert judge(rule, window(49), {"x": 1.0}) is None
    assert judge(rule, window(50), {"x": 1.0}) is not None


def test_the_threshold_itself_does_not_meet_a_rule() -> None:
    for rule in (DRIFT, replace(DRIFT, comparison=Comparison.LESS)):
        found = judge(rule, window(), {"x": rule.threshold})
        assert found is not None
        assert not found.met


@pytest.mark.parametrize(
    ("consecutive", "story", "expected"),
    [
        (1, [False, True, True, False, True], ["-", "f", "-", "r", "f"]),
        (2, [True, False, True, True, True, False], ["-", "-", "-", "f", "-", "r"]),
        (3, [True, True, False, True, True], ["-"] * 5),
        (3, [True, True, True, True, False, False], ["-", "-", "f", "-", "r", "-"]),
    ],
)
def test_it_fires_once_after_so_many_in_a_row_and_resolves_once(
    consecutive: int, story: list[bool], expected: list[str]
) -> None:
    assert follow(replace(DRIFT, consecutive_windows=consecutive), story) == expected


def test_a_resolved_alert_keeps_what_made_it_fire() -> None:
    fired = next_alert(
        monitor="m",
        table="a.b.c",
        rule=DRIFT,
        verdicts=[verdict(0, True)],
        active=None,
        now=NOW,
        new_id="one",
    )
    assert fired is not None
    resolved = next_alert(
        monitor="m",
        table="a.b.c",
        rule=DRIFT,
        verdicts=[verdict(1, False)],
        active=fired,
        now=NOW,
        new_id="two",
    )
    assert resolved == replace(fired, state=AlertState.RESOLVED, resolved_at=NOW)


def test_the_text_says_column_value_threshold_and_window() -> None:
    text = describe(DRIFT, verdict(0, True), "main.flights.delay_payload")
    assert text == (
        "In main.flights.delay_payload, the population stability index of column 'distance' is "
        "0.3, above the threshold of 0.2, in the window from 2013-04-01 to 2013-04-02 UTC."
    )
    rule = replace(QUALITY, consecutive_windows=2)
    start = FIRST + 3_600_000_000
    whole = Verdict(start, start + 1_800_000_000, True, ":table", 0.61234)
    assert describe(rule, whole, "a.b.c") == (
        "In a.b.c, the area under the ROC curve is 0.6123, below the threshold of 0.7, in the "
        "window from 2013-04-01 01:00:00 to 2013-04-01 01:30:00 UTC, the last of 2 windows in a "
        "row."
    )
