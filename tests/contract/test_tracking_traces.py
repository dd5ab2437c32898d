"""One body over the stores of traces and of spans: in memory, in SQL, in ClickHouse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from services.tracking.domain.experiment import Experiment
from services.tracking.domain.search.evaluate import trace_values
from services.tracking.domain.search.paging import position_after
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import TRACES
from services.tracking.domain.traces.assessment import Assessment, AssessmentKind
from services.tracking.domain.traces.span import trace_id_of
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.ports.store import Store
from services.tracking.ports.traces import TraceQuery
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
