"""Curves in few bytes: what a page decodes is what was measured, within half a step."""

from __future__ import annotations

import math
from base64 import b64decode

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tessera.pages.curves import Column, Columns, packed
from tessera.tracking.v1 import tracking_pb2 as pb


def decoded(columns: Columns, column: Column) -> list[float]:
    """As `templates/js/data.js` does."""
    index, low, scale, logarithmic = column
    numbers = np.frombuffer(b64decode(columns.texts[int(index)]), "<u2")
    special = {65_533: -math.inf, 65_534: math.inf, 65_535: math.nan}
    shown = math.exp if logarithmic else float

    def value(number: int) -> float:
        half = number >> 1
        return shown(low + half * scale + (number - half) * scale)

    return [special[one] if one in special else value(one) for one in numbers.tolist()]


def bucket(step: int, mean: float, count: int = 1, spread: float = 0.0) -> pb.MetricBucket:
    made = pb.MetricBucket(
        first_step=step,
        last_step=step,
        count=count,
        mean=mean,
        min=mean - spread,
        max=mean + spread,
    )
    made.first_at.FromMilliseconds(1_000 * step)
    made.last_at.FromMilliseconds(1_000 * step + 500)
    return made


@given(st.lists(st.floats(), min_size=1, max_size=50))
@example([1.0, 100.0, -math.inf])
@example([1.7976931348623157e308, -1.9957184931095775e292])
@example([1.7976931348623157e308, -1.7976931348623157e308])
@example([5e-324, 0.0])
def test_values_are_kept_within_a_step_of_their_range(values: list[float]) -> None:
    columns = Columns()
    column = columns.real(values)
    finite = [one for one in values if math.isfinite(one)]
    for value, back in zip(values, decoded(columns, column), strict=True):
        if math.isnan(value):
            assert math.isnan(back)
        elif math.isinf(value):
            assert back == value
        elif column[3]:
            assert math.isclose(back, value, rel_tol=0.02)
        else:
            near = (max(finite) / 65_532 - min(finite) / 65_532) * 0.6
            # Numbers whose steps are less than the least that there is become one.
            assert abs(back - value) <= near + 1e-9 * abs(value) + 65_532 * 5e-324


def test_small_values_beside_great_ones_keep_their_digits() -> None:
    columns = Columns()
    values = [1e-8, 3e-5, 0.2, 10.0]
    back = decoded(columns, columns.real(values))
    assert all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(values, back, strict=True))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_steps_are_exact_in_a_usual_range_and_in_order_in_any(steps: list[int]) -> None:
    columns = Columns()
    steps = sorted(steps)
    index, low, scale, _ = columns.whole(steps)
    numbers = np.frombuffer(b64decode(columns.texts[int(index)]), "<u2").tolist()
    back = [int(low) + number * int(scale) for number in numbers]
    assert back == sorted(back)
    assert all(0 <= step - near < scale for step, near in zip(steps, back, strict=True))
    if steps[-1] - steps[0] <= 65_532:
        assert back == steps


def test_equal_columns_are_kept_once_and_bands_only_where_points_share_a_bucket() -> None:
    curves = {
        (0, "loss"): [bucket(step, 1.0 / step) for step in (1, 2, 3)],
        (0, "auc"): [bucket(step, float(step), 2, 0.5) for step in (1, 2, 3)],
        (1, "auc"): [bucket(7, 0.5)],
        (0, "once"): [bucket(9, 1.0)],
        (1, "loss"): [],
    }
    columns = Columns()
    auc, alone, loss = packed(curves, columns)
    assert [(one["run"], one["key"]) for one in (auc, alone, loss)] == [
        (0, "auc"),
        (1, "auc"),
        (0, "loss"),
    ]
    assert auc["step"] == loss["step"]
    assert auc["points"] == 6
    assert decoded(columns, auc["time"]) == [1250, 2250, 3250]
    assert decoded(columns, auc["min"])[0] == 0.5
    assert "min" not in loss
    assert decoded(columns, alone["mean"]) == [0.5]
