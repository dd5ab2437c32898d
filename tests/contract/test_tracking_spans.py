"""One body over the stores of spans: in memory and in ClickHouse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from devstack import Stack
from services.tracking.adapters.clickhouse.spans import ClickHouseSpans
from services.tracking.adapters.clickhouse.tables import Tables
from services.tracking.adapters.memory.traces import InMemorySpans
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import TRACES
from services.tracking.domain.traces.metrics import (
    Aggregation,
    DataPoint,
    Figure,
    MetricsQuery,
    Subject,
    check_metrics_query,
)
from services.tracking.domain.traces.span import Event, Link, Span, SpanStatus, trace_id_of
from services.tracking.ports.traces import SpanStore, TraceKey
from tessera_kit.config import ClickHouseConfig
from tessera_kit.store.clickhouse import ClickHouse, quote_identifier
from tests.helpers import unique_name


def a_span(trace: int = 1, number: int = 1, **changes: object) -> Span:
    made = Span(
        trace_id=f"{trace:032x}",
        span_id=f"{number:016x}",
        parent_id="" if number == 1 else f"{1:016x}",
        name=f"step {number}",
        started_at=1_700_000_000_123_456_789 + number,
        ended_at=1_700_000_000_223_456_789,
        status=SpanStatus.OK,
        attributes={"mlflow.spanType": "CHAIN"},
        resource={"service.name": "app"},
        encoded=bytes([0, 255, number]),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def key(trace: int, experiment_id: str = "e1") -> TraceKey:
    return TraceKey(experiment_id, trace_id_of(f"{trace:032x}"))


@pytest.fixture(scope="module")
async def clickhouse(stack: Stack) -> AsyncIterator[ClickHouse]:
    config = ClickHouseConfig.from_env(stack.environment, database=unique_name("tracking"))
    async with ClickHouse(config) as client:
        await Tables(client).make()
        yield client
        await client.command(f"DROP DATABASE {quote_identifier(config.database)}")


@pytest.fixture(params=["memory", "clickhouse"])
async def spans(request: pytest.FixtureRequest, clickhouse: ClickHouse) -> AsyncIterator[SpanStore]:
    if request.param == "memory":
        yield InMemorySpans()
        return
    for table in ("otel_traces", "otel_traces_trace_id_ts"):
        await clickhouse.command(f"TRUNCATE TABLE {table}")
    async with ClickHouseSpans(clickhouse) as spans:
        yield spans


class TestSpanStore:
    async def test_spans_come_back_as_they_were_added(self, spans: SpanStore) -> None:
        whole = a_span(
            1,
            2,
            kind="Client",
            status=SpanStatus.ERROR,
            status_message="too 'bad' \\ ö",
            attributes={"gen_ai.request.model": "m", "tokens": "12", "": "empty"},
            scope_name="lib",
            scope_version="1",
            trace_state="a=b",
            events=(Event(1_700_000_000_000_000_001, "exception", {"type": "ValueError"}),),
            links=(Link("0" * 31 + "2", "0" * 15 + "3", "", {"why": "because"}),),
        )
        other = a_span(2, 1, attributes={})
        await spans.add({"e1": [whole, a_span(1, 1)], "e2": [other]})
        assert await spans.of([key(1), key(2, "e2"), key(3)]) == {
            key(1).trace_id: [a_span(1, 1), whole],
            key(2).trace_id: [other],
        }

    async def test_spans_belong_to_their_experiment(self, spans: SpanStore) -> None:
        await spans.add({"e1": [a_span(1)]})
        assert await spans.of([key(1, "e2")]) == {}

    async def test_a_span_that_comes_again_replaces_the_earlier_one(self, spans: SpanStore) -> None:
        await spans.add({"e1": [a_span(1, 1)]})
        again = a_span(1, 1, name="renamed", status=SpanStatus.ERROR)
        await spans.add({"e1": [again]})
        assert await spans.of([key(1)]) == {key(1).trace_id: [again]}

    async def test_delete_forgets_the_spans_of_traces(self, spans: SpanStore) -> None:
        await spans.add({"e1": [a_span(1), a_span(2)]})
        await spans.delete([key(1), TraceKey("e1", "of another kind")])
        assert (await spans.of([key(1), key(2)])).keys() == {key(2).trace_id}

    async def test_an_experiment_is_forgotten_whole(
        self, spans: SpanStore, clickhouse: ClickHouse
    ) -> None:
        await spans.delete_all("e1")
        await spans.add({"e1": [a_span(1), a_span(2)], "e2": [a_span(3)]})
        await spans.delete_all("e1")
        assert (await spans.of([key(1), key(2), key(3, "e2")])).keys() == {key(3).trace_id}
        if isinstance(spans, ClickHouseSpans):
            times = "SELECT count() FROM otel_traces_trace_id_ts WHERE TraceId = {trace:String}"
            for number, rows in ((1, 0), (3, 1)):
                found = await clickhouse.query(times, {"trace": f"{number:032x}"})
                assert found.rows == [(rows,)]

    async def test_traces_of_other_kinds_of_ids_have_no_spans(self, spans: SpanStore) -> None:
        assert await spans.of([TraceKey("e1", "0123"), TraceKey("e1", "")]) == {}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("span.name = 'retrieve'", {2}),
            ("span.name LIKE 'step%'", {1, 2}),
            ("span.name ILIKE 'RETR%'", {2}),
            ("span.name RLIKE '^retr.*e$'", {2}),
            ("span.name IN ('retrieve', 'other')", {2}),
            ("span.name NOT IN ('retrieve', 'step 1')", {1}),
            ("span.type = 'TOOL'", {1}),
            ("span.type = 'UNKNOWN'", {2}),
            ("span.status = 'ERROR'", {2}),
            ("span.name = 'retrieve' AND span.status = 'ERROR'", {2}),
            ("span.name = 'step 1' AND span.status = 'ERROR'", set()),
            ("span.attributes.model = 'small'", {1}),
            ("span.attributes.model != 'small'", set()),
            ("span.attributes.gen_ai.request.model LIKE '%mini'", {2}),
            ("span.`attributes.in words` = 'yes'", {2}),
            ("text LIKE '%back\\slash 100\\% sure%'", {2}),
            ("text ILIKE '%TIMEOUT%'", {2}),
            ("text LIKE '%small%' AND text LIKE '%CHAIN%'", {1}),
            ("text RLIKE 'model=s.+l'", {1}),
            ("text LIKE '%a question of nobody%'", set()),
        ],
    )
    async def test_matching(self, spans: SpanStore, text: str, expected: set[int]) -> None:
        tool = {"mlflow.spanType": "TOOL", "model": "small"}
        failed = a_span(
            2,
            2,
            name="retrieve",
            status=SpanStatus.ERROR,
            attributes={
                "gen_ai.request.model": "gpt-mini",
                "q": "back\\slash 100\\% sure",
                "in words": "yes",
            },
            events=(Event(1, "exception", {"message": "timeout"}),),
        )
        await spans.add({"e1": [a_span(1), a_span(1, 2, attributes=tool), a_span(2), failed]})
        await spans.add({"e2": [a_span(3, 1, name="retrieve", attributes=tool)]})
        conditions = parse_filter(text, TRACES)
        ids = {key(number).trace_id for number in expected}
        assert await spans.matching([key(1), key(2), key(4)], conditions) == ids
        assert await spans.candidates(["e1"], conditions, limit=2) == ids
        if len(ids) == 2:
            assert await spans.candidates(["e1"], conditions, limit=1) is None

    @pytest.mark.parametrize(
        ("metric", "figures", "dimensions", "changes", "expected"),
        [
            ("span_count", ["COUNT"], [], {}, [({}, [4.0])]),
            (
                "span_count",
                ["COUNT"],
                ["span_type", "span_status"],
                {},
                [
                    ({"span_type": "CHAIN", "span_status": "OK"}, [2.0]),
                    ({"span_type": "LLM", "span_status": "ERROR"}, [1.0]),
                    ({"span_type": "LLM", "span_status": "OK"}, [1.0]),
                ],
            ),
            ("latency", ["AVG", "MIN", "MAX"], [], {}, [({}, [25.0, 10.0, 40.0])]),
            ("latency", [50.0, 90.0], [], {}, [({}, [25.0, 37.0])]),
            (
                "total_cost",
                ["SUM"],
                ["span_model_name"],
                {},
                [({"span_model_name": "tiny"}, [0.75])],
            ),
            (
                "span_count",
                ["COUNT"],
                [],
                {"interval_seconds": 60},
                [
                    ({"time_bucket": "1970-01-01T00:00:00+00:00"}, [2.0]),
                    ({"time_bucket": "1970-01-01T00:01:00+00:00"}, [2.0]),
                ],
            ),
            ("span_count", ["COUNT"], [], {"end": 50_000_000}, [({}, [2.0])]),
            ("span_count", ["COUNT"], [], {"start": 50_000_000}, [({}, [2.0])]),
            ("span_count", ["COUNT"], [], {"spans": "span.type = 'LLM'"}, [({}, [2.0])]),
            ("span_count", ["COUNT"], [], {"start": 99_000_000}, []),
            (
                "latency",
                ["MAX"],
                ["span_name"],
                {"limit": 1, "offset": 1},
                [({"span_name": "step 2"}, [40.0])],
            ),
        ],
    )
    async def test_figures(
        self,
        spans: SpanStore,
        metric: str,
        figures: list[str | float],
        dimensions: list[str],
        changes: dict[str, object],
        expected: list[tuple[dict[str, str], list[float]]],
    ) -> None:
        def timed(trace: int, number: int, at: int, millis: int, **more: object) -> Span:
            began = at * 1_000_000_000
            ended = began + millis * 1_000_000
            return a_span(trace, number, started_at=began, ended_at=ended, **more)

        paid = {"mlflow.llm.cost": '{"total_cost": 0.375}', "mlflow.llm.model": "tiny"}
        llm = {"mlflow.spanType": "LLM", **paid}
        failed = SpanStatus.ERROR
        await spans.add(
            {
                "e1": [
                    timed(1, 1, 1, 10),
                    timed(1, 2, 1, 20, attributes=llm),
                    timed(2, 1, 61, 30),
                    timed(2, 2, 61, 40, attributes=llm, status=failed),
                ],
                "e2": [timed(3, 1, 1, 99)],
            }
        )
        asked = [
            Figure(Aggregation(one))
            if isinstance(one, str)
            else Figure(Aggregation.PERCENTILE, one)
            for one in figures
        ]
        text = str(changes.get("spans", ""))
        query = MetricsQuery(
            subject=Subject.SPANS, metric=metric, figures=asked, dimensions=dimensions
        )
        query = replace(query, **{**changes, "spans": parse_filter(text, TRACES)})  # type: ignore[arg-type]
        check_metrics_query(query)
        points = await spans.aggregate(["e1"], query, None)
        assert [(one.dimensions, list(one.values.values())) for one in points] == [
            (dims, pytest.approx(values)) for dims, values in expected
        ]

    async def test_figures_of_some_traces(self, spans: SpanStore) -> None:
        await spans.add({"e1": [a_span(1), a_span(1, 2), a_span(2)]})
        count = MetricsQuery(
            subject=Subject.SPANS, metric="span_count", figures=[Figure(Aggregation.COUNT)]
        )
        (point,) = await spans.aggregate(["e1"], count, [key(1), key(4)])
        assert point == DataPoint({}, {"COUNT": 2.0})
        assert await spans.aggregate(["e1"], count, []) == []
