"""Figures over traces, spans and assessments, through their use case."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from services.tracking.domain.traces.metrics import (
    Aggregation,
    Figure,
    MetricsQuery,
    Subject,
)
from services.tracking.domain.traces.span import trace_id_of
from services.tracking.domain.traces.trace import TraceState
from tessera_kit.errors import InvalidArgument
from tests.trace_world import ADA, SECOND, World, a_span, a_trace, a_world, said


@pytest.fixture
async def world() -> World:
    return await a_world()


class TestFigures:
    async def asked(
        self, world: World, metric: str, *figures: Figure, **changes: object
    ) -> list[tuple[dict[str, str], dict[str, float]]]:
        filters = changes.pop("filters", [])
        subject = Subject(str(changes.pop("subject", "TRACES")))
        query = MetricsQuery(subject=subject, metric=metric, figures=figures)
        page = await world.metrics.query(
            ADA,
            [world.experiment_id],
            replace(query, **changes),  # type: ignore[arg-type]
            filters,  # type: ignore[arg-type]
            "",
        )
        return [(dict(one.dimensions), dict(one.values)) for one in page.points]

    @pytest.fixture
    async def told(self, world: World) -> World:
        for number in range(1, 5):
            trace_id = trace_id_of(f"{number:032x}")
            usage = {"input_tokens": number * 10, "output_tokens": 1, "total_tokens": 7}
            await world.traces.start(
                ADA,
                a_trace(
                    world,
                    trace_id,
                    requested_at=number * 30 * SECOND,
                    duration=number * SECOND,
                    state=TraceState.ERROR if number == 4 else TraceState.OK,
                    tags={"mlflow.traceName": "odd" if number % 2 else "even"},
                    metadata={
                        "mlflow.trace.session": f"s{number // 2}",
                        "mlflow.trace.tokenUsage": json.dumps(usage),
                    },
                ),
            )
            value = "yes" if number > 1 else "no"
            await world.assessments.create(ADA, replace(said(value=value), trace_id=trace_id))
        return world

    async def test_of_traces(self, told: World) -> None:
        count = Figure(Aggregation.COUNT)
        assert await self.asked(told, "trace_count", count) == [({}, {"COUNT": 4.0})]
        assert await self.asked(
            told, "trace_count", count, dimensions=["trace_name"], filters=["trace.status = 'OK'"]
        ) == [({"trace_name": "even"}, {"COUNT": 1.0}), ({"trace_name": "odd"}, {"COUNT": 2.0})]
        assert await self.asked(told, "session_count", count) == [({}, {"COUNT": 3.0})]
        assert await self.asked(
            told,
            "latency",
            Figure(Aggregation.AVG),
            Figure(Aggregation.PERCENTILE, 50.0),
            filters=["trace.tag.mlflow.traceName = 'even'"],
        ) == [({}, {"AVG": 3000.0, "P50.0": 3000.0})]
        assert await self.asked(
            told, "input_tokens", Figure(Aggregation.SUM), interval_seconds=60
        ) == [
            ({"time_bucket": "1970-01-01T00:00:00+00:00"}, {"SUM": 10.0}),
            ({"time_bucket": "1970-01-01T00:01:00+00:00"}, {"SUM": 50.0}),
            ({"time_bucket": "1970-01-01T00:02:00+00:00"}, {"SUM": 40.0}),
        ]
        assert await self.asked(told, "trace_count", count, start=60 * SECOND, end=90 * SECOND) == [
            ({}, {"COUNT": 2.0})
        ]

    async def test_of_assessments(self, told: World) -> None:
        ((dimensions, values),) = await self.asked(
            told,
            "assessment_value",
            Figure(Aggregation.AVG),
            subject="ASSESSMENTS",
            filters=["assessment.name = 'helpful'", "trace.status = 'OK'"],
        )
        assert dimensions == {}
        assert values["AVG"] == pytest.approx(2 / 3)
        assert await self.asked(
            told,
            "assessment_count",
            Figure(Aggregation.COUNT),
            subject="ASSESSMENTS",
            dimensions=["assessment_value"],
        ) == [
            ({"assessment_value": "no"}, {"COUNT": 1.0}),
            (
                {"assessment_value": "yes"},
                {"COUNT": 3.0},
            ),
        ]

    async def test_of_spans_of_the_traces_that_are_meant(self, told: World) -> None:
        await told.traces.add_spans(
            ADA, told.experiment_id, [a_span(1), a_span(1, 2, 1), a_span(2)]
        )
        assert await self.asked(
            told,
            "span_count",
            Figure(Aggregation.COUNT),
            subject="SPANS",
            filters=["trace.tag.mlflow.traceName = 'odd'"],
        ) == [({}, {"COUNT": 2.0})]

    @pytest.mark.parametrize(
        ("metric", "aggregation", "changes"),
        [
            ("nope", "COUNT", {}),
            ("trace_count", "SUM", {}),
            ("trace_count", "COUNT", {"dimensions": ["span_name"]}),
            ("latency", "AVG", {"filters": ["span.name = 'x'"]}),
            ("latency", "AVG", {"filters": ["assessment.name = 'x'"]}),
            ("latency", "AVG", {"filters": ["trace.tag.x LIKE 'x'"]}),
            ("latency", "AVG", {"interval_seconds": -1}),
        ],
    )
    async def test_figures_that_there_are_not(
        self, world: World, metric: str, aggregation: str, changes: dict[str, object]
    ) -> None:
        with pytest.raises(InvalidArgument):
            await self.asked(world, metric, Figure(Aggregation(aggregation)), **changes)
