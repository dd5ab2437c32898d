"""One body over the stores of traces and of spans: in memory, in SQL, in ClickHouse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from devstack import Stack
from services.tracking.adapters.clickhouse.spans import ClickHouseSpans
from services.tracking.adapters.clickhouse.tables import Tables
from services.tracking.adapters.memory_traces import InMemorySpans
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.search.evaluate import trace_values
from services.tracking.domain.search.paging import position_after
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import TRACES
from services.tracking.domain.traces.assessment import Assessment, AssessmentKind
from services.tracking.domain.traces.metrics import (
    Aggregation,
    DataPoint,
    Figure,
    MetricsQuery,
    Subject,
    check_metrics_query,
)
from services.tracking.domain.traces.span import Event, Link, Span, SpanStatus, trace_id_of
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.ports import SpanStore, Store, TraceKey, TraceQuery
from tessera_kit.config import ClickHouseConfig
from tessera_kit.store.clickhouse import ClickHouse, quote_identifier
from tests.helpers import unique_name
from tests.tracking_database import STORES, opened_store

SECOND = 1_000_000


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


def a_trace(number: int = 1, **changes: object) -> Trace:
    made = Trace(
        trace_id=trace_id_of(f"{number:032x}"),
        experiment_id="e1",
        requested_at=number * SECOND,
        duration=number * 1000,
        state=TraceState.OK,
        tags={"mlflow.traceName": f"chat {number}"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def said(trace: Trace, name: str, value: object, **changes: object) -> Assessment:
    made = Assessment(
        assessment_id=f"a-{name}",
        trace_id=trace.trace_id,
        name=name,
        kind=AssessmentKind.FEEDBACK,
        value=value,
        source_type="CODE",
        source_id="a scorer",
        metadata={"run": "r1"},
        created_at=SECOND,
        updated_at=SECOND,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def given(store: Store, *traces: Trace) -> None:
    async with store.write() as work:
        for experiment_id in sorted({"e1", *(one.experiment_id for one in traces)}):
            await work.experiments.add(
                Experiment(
                    experiment_id=experiment_id,
                    name=experiment_id,
                    artifact_location=f"s3://bucket/{experiment_id}",
                    created_by="ada",
                    created_at=1,
                    updated_at=1,
                    etag="first",
                )
            )
        await work.traces.lock([one.trace_id for one in traces])
        await work.traces.put(traces)
        await work.commit()


async def found(
    store: Store, text: str = "", order: Sequence[str] = (), **changes: object
) -> list[Trace]:
    query = TraceQuery(
        experiment_ids=["e1"],
        filter=parse_filter(text, TRACES),
        order=parse_order_by(order, TRACES),
        limit=100,
    )
    async with store.read() as view:
        return await view.traces.find(replace(query, **changes))  # type: ignore[arg-type]


def numbers(traces: Sequence[Trace]) -> list[int]:
    return [int(one.trace_id[3:], 16) for one in traces]


class TestTraceStore:
    async def test_a_trace_comes_back_as_it_was_put(self, store: Store) -> None:
        trace = a_trace(
            client_request_id="mine",
            request_preview="what?",
            response_preview="that",
            finalized=True,
            metadata={"mlflow.sourceRun": "r1", "ü": "ö"},
            runs=frozenset({"r1", "r2"}),
            prompts=frozenset({"greet/1"}),
        )
        texts = ["good", True, 0.25, None, [1, "x"], {"a": {"b": None}}]
        trace = replace(
            trace,
            assessments=tuple(
                said(trace, f"n{index}", value, created_at=index, span_id="ab", rationale="so")
                for index, value in enumerate(texts)
            ),
        )
        await given(store, trace)
        async with store.read() as view:
            wanted = [trace.trace_id, "tr-none", "tr-\x00"]
            assert await view.traces.get(wanted) == {trace.trace_id: trace}

    async def test_what_is_put_again_replaces_all_of_it(self, store: Store) -> None:
        before = a_trace(tags={"a": "1", "b": "2"}, runs=frozenset({"r1"}))
        await given(store, replace(before, assessments=(said(before, "x", 1),)), a_trace(2))
        after = replace(before, tags={"b": "3"}, state=TraceState.ERROR, runs=frozenset({"r2"}))
        async with store.write() as work:
            assert (await work.traces.lock([before.trace_id])).keys() == {before.trace_id}
            await work.traces.put([after])
            await work.commit()
        async with store.read() as view:
            assert (await view.traces.get([after.trace_id]))[after.trace_id] == after
        assert numbers(await found(store, "run_id = 'r1'")) == []

    async def test_parts_that_change_alone_and_twice_in_one_work(self, store: Store) -> None:
        trace = a_trace(metadata={"a": "b"}, runs=frozenset({"r1"}))
        await given(store, trace, a_trace(2))
        with_tag = replace(trace, tags={"new": "tag"})
        ended = replace(with_tag, duration=5, assessments=(said(trace, "x", 1),))
        async with store.write() as work:
            await work.traces.lock([trace.trace_id, a_trace(2).trace_id])
            await work.traces.put([with_tag, a_trace(2)])
            await work.traces.put([ended])
            await work.commit()
        async with store.read() as view:
            assert await view.traces.get([trace.trace_id]) == {trace.trace_id: ended}
            assert await view.traces.homes([trace.trace_id, "none"]) == {trace.trace_id: "e1"}

    async def test_what_is_not_committed_is_not_there(self, store: Store) -> None:
        await given(store)
        async with store.write() as work:
            await work.traces.put([a_trace()])
        assert await found(store) == []

    async def test_delete_forgets_the_trace_and_all_that_is_said(self, store: Store) -> None:
        trace = a_trace(runs=frozenset({"r1"}), metadata={"k": "v"})
        await given(store, replace(trace, assessments=(said(trace, "x", 1),)), a_trace(2))
        async with store.write() as work:
            await work.traces.delete([trace.trace_id])
            await work.commit()
        assert numbers(await found(store)) == [2]

    async def test_oldest_are_those_that_began_by_a_time(self, store: Store) -> None:
        await given(store, *(a_trace(number) for number in (3, 1, 2)), a_trace(4))
        async with store.read() as view:
            oldest = await view.traces.oldest("e1", until=3 * SECOND, limit=2)
        assert oldest == [a_trace(1).trace_id, a_trace(2).trace_id]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", [4, 3, 2, 1]),
            ("trace.status = 'OK'", [4, 3, 1]),
            ("status IN ('ERROR', 'IN_PROGRESS')", [2]),
            ("timestamp_ms >= 2000 AND attributes.timestamp < 4000", [3, 2]),
            ("execution_time_ms > 2", [4, 3]),
            ("end_time = 3003", [3]),
            ("name = 'chat 1'", [1]),
            ("name IN ('chat 1', 'chat 3')", [3, 1]),
            ("name NOT IN ('chat 1', 'chat 3')", [4, 2]),
            ("name ILIKE 'CHAT %' AND tag.team = 'blue'", [2]),
            ("tag.team IS NULL", [4, 3, 1]),
            ("tags.team IS NOT NULL", [2]),
            ("metadata.`mlflow.modelId` = 'm-1'", [1]),
            ("request_metadata.`mlflow.modelId` != 'm-2'", [1]),
            ("run_id = 'r1'", [3, 1]),
            ("prompt = 'greet/2'", [3]),
            ("client_request_id LIKE 'mine%'", [2]),
            ("feedback.score > 0.5", [2]),
            ("feedback.score <= 0.5", [1]),
            ("feedback.score = 0.5", [1]),
            ("feedback.helpful = 'true'", [1]),
            ("feedback.verdict = 'good'", [2]),
            ("feedback.verdict ILIKE 'GO%'", [2]),
            ("feedback.score IS NULL", [4, 3]),
            ("feedback.score IS NOT NULL", [2, 1]),
            ("expectation.answer = '42'", [3]),
            ("expectation.answer = 42", [3]),
            ("feedback.answer = 42", []),
            ("issue.id = 'slow'", [4]),
        ],
    )
    async def test_filters(self, store: Store, text: str, expected: list[int]) -> None:
        one = a_trace(1, metadata={"mlflow.modelId": "m-1"}, runs=frozenset({"r1"}))
        two = a_trace(2, state=TraceState.ERROR, client_request_id="mine-1")
        three = a_trace(3, runs=frozenset({"r1", "r2"}), prompts=frozenset({"greet/2"}))
        four = a_trace(4)
        await given(
            store,
            replace(one, assessments=(said(one, "score", 0.5), said(one, "helpful", True))),
            replace(
                two,
                tags={**two.tags, "team": "blue"},
                assessments=(said(two, "score", 0.75), said(two, "verdict", "good")),
            ),
            replace(
                three, assessments=(said(three, "answer", 42, kind=AssessmentKind.EXPECTATION),)
            ),
            replace(four, assessments=(said(four, "slow", "Slow", kind=AssessmentKind.ISSUE),)),
            a_trace(5, experiment_id="e2"),
        )
        assert numbers(await found(store, text)) == expected
        async with store.read() as view:
            query = TraceQuery(experiment_ids=["e1"], filter=parse_filter(text, TRACES), limit=1)
            assert await view.traces.count(query) == len(expected)

    @pytest.mark.parametrize(
        ("order", "expected"),
        [
            (["timestamp_ms ASC"], [1, 2, 3]),
            (["execution_time DESC"], [2, 1, 3]),
            (["status", "timestamp DESC"], [3, 1, 2]),
            (["tag.mlflow.traceName DESC"], [3, 2, 1]),
        ],
    )
    async def test_orders_and_pages(
        self, store: Store, order: list[str], expected: list[int]
    ) -> None:
        await given(
            store,
            a_trace(1, duration=5000),
            a_trace(2, duration=9000, state=TraceState.OK),
            a_trace(3, duration=None, state=TraceState.ERROR),
        )
        keys = parse_order_by(order, TRACES)
        seen: list[Trace] = []
        while page := await found(
            store,
            order=order,
            limit=1,
            after=None
            if not seen
            else position_after(
                trace_values(seen[-1]),
                keys,
                time=seen[-1].requested_at,
                identifier=seen[-1].trace_id,
            ),
        ):
            seen += page
        if order[0] == "status":
            expected = [3, 2, 1]
        assert numbers(seen) == expected

    async def test_only_the_named_ones_are_found(self, store: Store) -> None:
        await given(store, *(a_trace(number) for number in (1, 2, 3)))
        named = {a_trace(1).trace_id, a_trace(3).trace_id, "tr-none"}
        assert numbers(await found(store, trace_ids=named)) == [3, 1]
        async with store.read() as view:
            query = TraceQuery(experiment_ids=["e1"], trace_ids=named, limit=1)
            assert await view.traces.count(query) == 2


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
    await clickhouse.command("TRUNCATE TABLE otel_traces")
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
