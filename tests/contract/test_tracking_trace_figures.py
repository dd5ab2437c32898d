"""What figures of traces and assessments are made of, over the stores of traces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import TRACES
from services.tracking.domain.traces.assessment import AssessmentKind
from services.tracking.domain.traces.metrics import (
    Aggregation,
    AssessmentFilter,
    Figure,
    MetricsQuery,
    Subject,
    aggregated,
    check_metrics_query,
)
from services.tracking.domain.traces.trace import TraceState
from services.tracking.ports.store import Store
from services.tracking.ports.traces import TraceQuery

from .test_tracking_traces import a_trace, given, said, store

__all__ = ["store"]


@pytest.mark.parametrize(
    ("metric", "aggregations", "changes", "expected"),
    [
        ("trace_count", "COUNT", {}, [({}, [5.0])]),
        (
            "trace_count",
            "COUNT",
            {"dimensions": ["trace_name", "trace_status"], "traces": "timestamp >= 2000"},
            [
                ({"trace_name": "odd", "trace_status": "OK"}, [1.0]),
                ({"trace_name": "even", "trace_status": "ERROR"}, [1.0]),
                ({"trace_name": "even", "trace_status": "OK"}, [1.0]),
            ],
        ),
        (
            "trace_count",
            "COUNT",
            {"interval_seconds": 2},
            [
                ({"time_bucket": "1970-01-01T00:00:00+00:00"}, [1.0]),
                ({"time_bucket": "1970-01-01T00:00:02+00:00"}, [2.0]),
                ({"time_bucket": "1970-01-01T00:00:04+00:00"}, [2.0]),
            ],
        ),
        ("session_count", "COUNT", {}, [({}, [2.0])]),
        ("latency", "AVG MIN MAX PERCENTILE", {}, [({}, [2.5, 1.0, 4.0, 2.5])]),
        ("latency", "MAX", {"dimensions": ["trace_name"]}, [
            ({"trace_name": "even"}, [4.0]), ({"trace_name": "odd"}, [3.0])
        ]),
        ("input_tokens", "SUM AVG", {}, [({}, [30.5, 15.25])]),
        ("output_tokens", "SUM", {}, []),
        ("assessment_count", "COUNT", {"dimensions": ["assessment_name"]}, [
            ({"assessment_name": "score"}, [4.0]), ({"assessment_name": "sum"}, [1.0])
        ]),
        ("assessment_count", "COUNT", {"assessments": AssessmentFilter(name="score"),
                                       "dimensions": ["assessment_value"]}, [
            ({"assessment_value": "0.5"}, [1.0]),
            ({"assessment_value": "true"}, [1.0]),
            ({"assessment_value": "yes"}, [1.0]),
            ({"assessment_value": "yes "}, [1.0]),
        ]),
        ("assessment_value", "AVG PERCENTILE", {"assessments": AssessmentFilter(
            kind="feedback")}, [({}, [3.5 / 4, 1.0])]),
    ],
)  # fmt: skip
async def test_what_figures_are_made_of(
    store: Store,
    metric: str,
    aggregations: str,
    changes: dict[str, Any],
    expected: list[tuple[dict[str, str], list[float]]],
) -> None:
    names = {number: "odd" if number % 2 else "even" for number in (1, 2, 3, 4)}
    usage = [
        '{"input_tokens": 10}',
        '{"input_tokens": 20.5}',
        "no JSON",
        '{"input_tokens": "1"}',
    ]
    values: list[Any] = ["yes", True, 0.5, "yes "]
    traces = [
        a_trace(
            number,
            tags={"mlflow.traceName": names[number]},
            state=TraceState.ERROR if number == 2 else TraceState.OK,
            metadata={
                "mlflow.trace.tokenUsage": usage[number - 1],
                "mlflow.trace.session": f"s{number // 3}" if number < 4 else "",
            },
        )
        for number in (1, 2, 3, 4)
    ]
    traces = [
        replace(one, assessments=(said(one, "score", value),))
        for one, value in zip(traces, values, strict=True)
    ]
    expectation = said(traces[0], "sum", 2, kind=AssessmentKind.EXPECTATION)
    issue = said(traces[0], "slow", 1, kind=AssessmentKind.ISSUE)
    before = said(traces[0], "before", 1, valid=False)
    told = (*traces[0].assessments, expectation, issue, before)
    traces[0] = replace(traces[0], assessments=told)
    nameless = a_trace(5, tags={}, duration=None)
    await given(store, *traces, nameless, a_trace(6, experiment_id="e2"))
    about = Subject.ASSESSMENTS if "assessment" in metric else Subject.TRACES
    text = changes.get("traces", "")
    asked = MetricsQuery(
        subject=about,
        metric=metric,
        figures=[Figure(Aggregation(one)) for one in aggregations.split()],
        **{key: value for key, value in changes.items() if key != "traces"},
    )
    check_metrics_query(asked)
    query = TraceQuery(experiment_ids=["e1"], filter=parse_filter(text, TRACES), limit=1)
    async with store.read() as view:
        measures = await view.traces.measures(query, asked)
    points = [
        (dict(one.dimensions), list(one.values.values())) for one in aggregated(asked, measures)
    ]
    assert sorted(points, key=str) == sorted(expected, key=str)
