"""The stream's state is the same whatever the order, and however often rows are observed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.monitoring.domain.windows import RequestRange, StreamState, Touch, window_start

GRANULARITY = 10
times = st.integers(-100, 100)


@st.composite
def a_touch(draw: st.DrawFn) -> Touch:
    latest = draw(times)
    first = draw(times)
    return Touch(
        window_start(latest, GRANULARITY),
        draw(st.integers(1, 5)),
        RequestRange(first, first + draw(st.integers(0, 50))),
        latest,
    )


touches = st.lists(a_touch(), max_size=12)


@given(touches, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[Touch], chance: object) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert StreamState().observe(shuffled) == StreamState().observe(rows)


@given(touches, touches)
def test_observing_again_changes_nothing(some: list[Touch], others: list[Touch]) -> None:
    state = StreamState().observe(some).observe(others)
    assert state.observe(some) == state
    assert StreamState().observe([*some, *others]) == state


@given(touches, st.integers(0, 30))
def test_a_ready_window_ended_before_the_watermark_and_its_lateness(
    rows: list[Touch], lateness: int
) -> None:
    state = StreamState().observe(rows)
    ready = state.ready(GRANULARITY, lateness)
    assert ready == sorted(ready)
    latest = max((row.latest_us for row in rows), default=0)
    for start in state.pending:
        assert (start in ready) == (start + GRANULARITY + lateness <= latest)


@given(touches)
def test_state_survives_json(rows: list[Touch]) -> None:
    state = StreamState().observe(rows)
    assert StreamState.from_json(state.to_json()) == state


@given(times, st.integers(1, 1000))
def test_every_time_is_in_its_window(time: int, granularity: int) -> None:
    start = window_start(time, granularity)
    assert start <= time < start + granularity
    assert start % granularity == 0
