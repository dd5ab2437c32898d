"""Windows of event time, and the state that a stream of rows builds up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.monitoring.domain.windows import (
    RequestRange,
    StreamState,
    Touch,
    WindowRecord,
    microseconds,
    moment,
    window_start,
)

MINUTE = 60_000_000


def touch(start: int, latest: int, first: int = 0, last: int = 0) -> Touch:
    return Touch(start, 1, RequestRange(first, last), latest)


@pytest.mark.parametrize(
    ("time", "start"),
    [(0, 0), (1, 0), (MINUTE - 1, 0), (MINUTE, MINUTE), (-1, -MINUTE), (-MINUTE, -MINUTE)],
)
def test_windows_are_aligned_to_1970_on_both_sides_of_it(time: int, start: int) -> None:
    assert window_start(time, MINUTE) == start


def test_times_survive_the_way_to_microseconds_and_back() -> None:
    time = datetime(2013, 7, 4, 3, 2, 1, 123456, tzinfo=UTC)
    assert moment(microseconds(time)) == time
    assert microseconds(timedelta(days=-1, microseconds=1)) == -86_399_999_999


def test_a_window_is_ready_when_the_watermark_passed_its_end_and_the_lateness() -> None:
    state = StreamState().observe([touch(0, 0), touch(MINUTE, MINUTE)])
    assert state.ready(MINUTE, 0) == [0]
    assert state.observe([touch(MINUTE, 2 * MINUTE - 1)]).ready(MINUTE, 0) == [0]
    assert state.observe([touch(2 * MINUTE, 2 * MINUTE)]).ready(MINUTE, 0) == [0, MINUTE]
    assert state.observe([touch(2 * MINUTE, 2 * MINUTE)]).ready(MINUTE, MINUTE) == [0]
    assert StreamState().ready(MINUTE, 0) == []


def test_the_watermark_does_not_step_back() -> None:
    state = StreamState().observe([touch(MINUTE, MINUTE + 5)]).observe([touch(0, 3)])
    assert state.watermark_us == MINUTE + 5
    assert state.ready(MINUTE, 0) == [0]


def test_requests_of_a_window_are_found_in_the_span_of_all_its_rows() -> None:
    state = StreamState().observe([touch(0, 1, 50, 60), touch(0, 1, 10, 20), touch(0, 1, 55, 90)])
    assert state.pending == {0: RequestRange(10, 90)}
    assert state.latest_request_us == 90
    assert state.without([0]).pending == {}
    assert state.without([0]).watermark_us == 1


def test_state_survives_json() -> None:
    state = StreamState().observe([touch(0, 1, 10, 20), touch(MINUTE, MINUTE, 30, 30)])
    assert StreamState.from_json(state.to_json()) == state
    assert StreamState.from_json(StreamState().to_json()) == StreamState()


@pytest.mark.parametrize(
    "data",
    [{}, {"pending": 3}, {"watermark_us": "x", "pending": []}, {"pending": [[1]]}],
)
def test_what_is_no_state_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        StreamState.from_json(data)


def test_a_window_is_dirty_from_a_label_to_the_computation_that_saw_it() -> None:
    assert not WindowRecord(0, 1, label_marks=2, label_marks_computed=2).is_dirty
    assert WindowRecord(0, 1, label_marks=3, label_marks_computed=2).is_dirty
