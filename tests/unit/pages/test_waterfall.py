"""A trace as a waterfall: the order of its steps, their bars, and what a page shows of them."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import pytest

from tessera.pages.waterfall import (
    Step,
    StepEvent,
    Trace,
    arranged,
    duration_text,
    page,
    trace_of,
)


def step(number: int, parent: int = 0, begin: int = 0, end: int = 100, **more: Any) -> Step:
    return Step(
        span_id=f"{number}",
        parent_id=f"{parent}" if parent else "",
        name=f"step {number}",
        started_at=1_000 + begin,
        ended_at=1_000 + end,
        **more,
    )


def test_steps_stand_behind_what_they_run_inside_of_by_time() -> None:
    steps = [step(4, 2, 30, 40), step(3, 1, 60), step(2, 1, 20), step(1), step(5, 9, 70)]
    rows = arranged(steps)
    assert [(row.step.span_id, row.depth) for row in rows] == [
        ("1", 0),
        ("2", 1),
        ("4", 2),
        ("3", 1),
        ("5", 0),
    ]


def test_bars_are_shares_of_the_whole() -> None:
    rows = arranged([step(1), step(2, 1, 25, 50), step(3, 1, 100, 100)])
    assert [(row.offset, row.width) for row in rows] == [(0.0, 1.0), (0.25, 0.25), (1.0, 0.0)]
    assert [(row.offset, row.width) for row in arranged([step(1, begin=5, end=5)])] == [(0.0, 0.0)]


def test_rings_of_parents_and_great_depths_are_shown_too() -> None:
    ring = arranged([step(1, 2), step(2, 3), step(3, 1), step(4)])
    assert sorted(row.step.span_id for row in ring) == ["1", "2", "3", "4"]
    chain = arranged([step(number, number - 1, number) for number in range(1, 5001)])
    assert [row.depth for row in chain] == list(range(5000))


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 µs"),
        (850_000, "850 µs"),
        (12_340_000, "12.3 ms"),
        (4_560_000_000, "4.56 s"),
        (182_000_000_000, "3 min 2 s"),
    ],
)
def test_durations_are_read_by_people(nanoseconds: int, text: str) -> None:
    assert duration_text(nanoseconds) == text


def test_the_page_shows_every_step_and_runs_nothing_of_the_trace_s() -> None:
    evil = "<script>alert('x')</script>"
    failed = step(
        2,
        1,
        failed=True,
        message=evil,
        attributes={"mlflow.spanType": evil, evil: evil, "mlflow.spanInputs": {"q": [evil]}},
        events=[StepEvent(evil, {"exception.stacktrace": evil})],
    )
    html = page(
        Trace(
            trace_id=evil,
            name=evil,
            state="ERROR",
            tags={evil: evil},
            assessments=[(evil, evil, f'" onmouseover="{evil}')],
            steps=[step(1), failed],
        )
    )
    assert "<script" not in html
    assert not re.search(r'" on\w+="', html)
    assert html.count("<details") == 2
    assert html.count('class="failed"') == 1
    assert "2 steps, 1 failed" in html
    assert re.search(r"(\ssrc=|href=|url\()", html) is None


def test_a_trace_without_spans_has_a_page() -> None:
    html = page(Trace(trace_id="tr-1", name="", state="IN_PROGRESS"))
    assert "no spans have come yet" in html


def test_mlflow_s_message_is_read() -> None:
    def number(value: int) -> str:
        return b64encode(value.to_bytes(8, "big")).decode()

    trace = trace_of(
        {
            "trace_info": {
                "trace_id": "tr-1",
                "state": "OK",
                "tags": {"mlflow.traceName": "chat", "team": "blue"},
                "assessments": [
                    {"assessment_name": "good", "feedback": {"value": 0.5}, "rationale": "so"},
                    {
                        "assessment_name": "answer",
                        "expectation": {"serialized_value": {"value": '{"a": 1}'}},
                    },
                ],
            },
            "spans": [
                {
                    "span_id": number(2),
                    "parent_span_id": number(1),
                    "name": "llm",
                    "start_time_unix_nano": "5",
                    "end_time_unix_nano": "9",
                    "status": {"code": "STATUS_CODE_ERROR", "message": "no"},
                    "attributes": [
                        {"key": "n", "value": {"int_value": "3"}},
                        {
                            "key": "deep",
                            "value": {
                                "kvlist_value": {
                                    "values": [
                                        {
                                            "key": "list",
                                            "value": {
                                                "array_value": {"values": [{"bool_value": True}]}
                                            },
                                        }
                                    ]
                                }
                            },
                        },
                    ],
                    "events": [{"name": "exception", "attributes": []}],
                }
            ],
        }
    )
    assert (trace.name, trace.state, trace.tags) == ("chat", "OK", {"team": "blue"})
    assert trace.assessments == [("good", "0.5", "so"), ("answer", '{"a": 1}', "")]
    (one,) = trace.steps
    assert (one.span_id, one.parent_id) == (f"{2:016x}", f"{1:016x}")
    assert (one.started_at, one.ended_at, one.failed, one.message) == (5, 9, True, "no")
    assert one.attributes == {"n": 3, "deep": {"list": [True]}}
    assert [event.name for event in one.events] == ["exception"]
