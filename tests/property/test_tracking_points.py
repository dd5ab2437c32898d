"""Points as columns say what the same points one by one say."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.tracking.adapters.sql.log import log_rows, unpacked
from services.tracking.domain.metrics import Point, identity, latest_points
from services.tracking.domain.points import Points

POINTS = st.lists(
    st.builds(
        Point,
        st.sampled_from(["a", "b/c", "é"]),
        st.integers(-2, 2) | st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 3),
        st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf]) | st.floats(),
    ),
    max_size=30,
)


@given(parts=st.lists(POINTS, max_size=4))
def test_summaries_are_of_all_points(parts: list[list[Point]]) -> None:
    joined = Points.joined([Points.of(part) for part in parts])
    points = [point for part in parts for point in part]
    found = {one.latest.key: one for one in joined.summaries()}
    latest = latest_points(points)
    assert list(found) == sorted(latest)
    for key, point in latest.items():
        assert identity(found[key].latest) == identity(point)
        values = [one.value for one in points if one.key == key and not math.isnan(one.value)]
        if values:
            assert (found[key].minimum, found[key].maximum) == (min(values), max(values))
        else:
            assert math.isnan(found[key].minimum)
            assert math.isnan(found[key].maximum)


@given(points=POINTS)
def test_the_log_gives_back_what_it_was_given(points: list[Point]) -> None:
    rows = log_rows({"r": Points.of(points)}, {"r": 7})
    assert [row[:2] for row in rows] == ([(7, len(points))] if points else [])
    back = [point for _, _, keys, data in rows for point in unpacked(keys, data)]
    assert list(map(repr, back)) == list(map(repr, points))


@given(points=POINTS)
def test_points_of_one_metric_come_in_the_order_of_histories(points: list[Point]) -> None:
    columns = Points.of(points)
    for key in ("a", "none"):
        own = [identity(point) for point in columns.of_key(key).ordered().since(0)]
        assert own == sorted(own)
        assert Counter(own) == Counter(identity(one) for one in points if one.key == key)
