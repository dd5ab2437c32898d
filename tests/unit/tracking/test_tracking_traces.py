"""Traces through their use cases: what clients and spans tell, who may do what, searches."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import TRACES
from services.tracking.domain.traces.assessment import AssessmentChange, AssessmentKind
from services.tracking.domain.traces.span import Span, SpanStatus, trace_id_of
from services.tracking.domain.traces.trace import TraceState
from services.tracking.errors import (
    AssessmentNotFound,
    ExperimentNotFound,
    InvalidFilter,
    InvalidKey,
    InvalidUpdate,
    InvalidValue,
    RunNotFound,
    TagNotFound,
    TraceNotFound,
)
from tessera_kit.errors import PermissionDenied
from tessera_kit.rpc.pages import InvalidPageToken
from tests.trace_world import ADA, AN_ID, BOB, NANO, SECOND, World, a_span, a_trace, a_world, said


@pytest.fixture
async def world() -> World:
    return await a_world()


class TestWhatSpansTell:
    async def test_spans_alone_make_a_trace(self, world: World) -> None:
        chat = {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "?"}]}
        root = a_span(
            attributes={
                "mlflow.spanInputs": json.dumps(chat),
                "gen_ai.output.messages": '{"choices": [{"message": {"role": "assistant", '
                '"content": [{"type": "text", "text": "!"}]}}]}',
                "session.id": "s-1",
                "mlflow.traceTag.team": "blue",
                "user.id": "u-1",
            },
            resource={"service.name": "app", "telemetry.sdk.name": "x", "mlflow.a": "b"},
        )
        await world.traces.add_spans(ADA, world.experiment_id, [a_span(1, 2, 1), root])
        trace = await world.traces.get(ADA, AN_ID)
        assert (trace.requested_at, trace.duration) == (SECOND, 9 * SECOND)
        assert trace.state is TraceState.OK
        assert (trace.request_preview, trace.response_preview) == ("?", "!")
        assert trace.tags["team"] == "blue"
        assert trace.tags["service.name"] == "app"
        assert trace.tags["mlflow.trace.spansLocation"] == "TRACKING_STORE"
        assert trace.tags.keys().isdisjoint({"telemetry.sdk.name", "mlflow.a"})
        assert trace.metadata == {"mlflow.trace.session": "s-1", "mlflow.trace.user": "u-1"}

    async def test_a_trace_is_under_way_until_its_root_is_there(self, world: World) -> None:
        await world.traces.add_spans(ADA, world.experiment_id, [a_span(1, 2, 1)])
        assert (await world.traces.get(ADA, AN_ID)).state is TraceState.IN_PROGRESS
        failed = a_span(status=SpanStatus.ERROR)
        await world.traces.add_spans(ADA, world.experiment_id, [failed])
        trace = await world.traces.get(ADA, AN_ID)
        assert (trace.state, trace.requested_at) == (TraceState.ERROR, SECOND)

    async def test_what_the_client_says_holds(self, world: World) -> None:
        told = a_trace(world, tags={"a": "told"}, request_preview="asked")
        await world.traces.start(ADA, told)
        late = a_span(attributes={"mlflow.spanInputs": "late", "mlflow.traceTag.b": "late"})
        await world.traces.add_spans(ADA, world.experiment_id, [late])
        trace = await world.traces.get(ADA, AN_ID)
        assert (trace.requested_at, trace.duration) == (2 * SECOND, SECOND)
        assert trace.request_preview == "asked"
        assert (trace.tags["a"], trace.tags["b"]) == ("told", "late")

    async def test_the_client_may_tell_before_or_after_the_spans(self, world: World) -> None:
        told = a_trace(world, tags={"a": "told"}, metadata={"m": "told"})
        await world.traces.start(ADA, told)
        await world.traces.add_spans(ADA, world.experiment_id, [a_span()])
        other = replace(told, trace_id=trace_id_of(f"{2:032x}"))
        await world.traces.add_spans(ADA, world.experiment_id, [a_span(2)])
        await world.traces.start(ADA, other)
        one, two = await world.traces.get_many(ADA, [AN_ID, other.trace_id])
        assert replace(one, trace_id="") == replace(two, trace_id="")

    async def test_tokens_are_counted_once_in_a_tree(self, world: World) -> None:
        def used(number: int, parent: int, tokens: int) -> Span:
            usage = {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}
            return a_span(
                1, number, parent, attributes={"mlflow.chat.tokenUsage": json.dumps(usage)}
            )

        genai = {"gen_ai.usage.input_tokens": "5", "gen_ai.usage.output_tokens": "6"}
        await world.traces.add_spans(
            ADA, world.experiment_id, [used(4, 3, 10), a_span(1, 5, 1, attributes=genai)]
        )
        # Its parent tells what both it and its children used, and comes later.
        await world.traces.add_spans(ADA, world.experiment_id, [used(3, 1, 30), a_span()])
        trace = await world.traces.get(ADA, AN_ID)
        assert json.loads(trace.metadata["mlflow.trace.tokenUsage"]) == {
            "input_tokens": 35,
            "output_tokens": 7,
            "total_tokens": 42,
        }

    async def test_parents_that_form_a_ring_are_no_endless_loop(self, world: World) -> None:
        usage = {"mlflow.llm.cost": '{"total_cost": 0.5}'}
        ring = [a_span(1, 2, 3, attributes=usage), a_span(1, 3, 2)]
        await world.traces.add_spans(ADA, world.experiment_id, ring)
        trace = await world.traces.get(ADA, AN_ID)
        assert "mlflow.trace.cost" in trace.metadata or trace.metadata == {}


class TestGrants:
    async def test_only_who_may_write_the_experiment_adds_to_it(self, world: World) -> None:
        with pytest.raises(PermissionDenied):
            await world.traces.start(BOB, a_trace(world))
        with pytest.raises(PermissionDenied):
            await world.traces.add_spans(BOB, world.experiment_id, [a_span()])
        assert await world.found() == []

    async def test_spans_of_somebody_elses_trace_are_refused_whole(self, world: World) -> None:
        await world.traces.add_spans(ADA, world.experiment_id, [a_span(1)])
        bobs = (await world.experiments.create(BOB, name="b", tags={}, request_id="")).experiment_id
        with pytest.raises(PermissionDenied):
            await world.traces.add_spans(BOB, bobs, [a_span(2), a_span(1, 2, 1)])
        with pytest.raises(TraceNotFound):
            await world.traces.get(BOB, trace_id_of(f"{2:032x}"))

    async def test_a_trace_never_moves_to_another_experiment(self, world: World) -> None:
        await world.traces.add_spans(ADA, world.experiment_id, [a_span(1)])
        other = await world.experiments.create(ADA, name="other", tags={}, request_id="")
        await world.traces.add_spans(ADA, other.experiment_id, [a_span(1, 2, 1)])
        (whole,) = await world.traces.with_spans([await world.traces.get(ADA, AN_ID)])
        assert whole.trace.experiment_id == world.experiment_id
        assert [span.name for span in whole.spans] == ["chat", "step 2"]
        with pytest.raises(InvalidValue, match="belongs to experiment"):
            await world.traces.start(ADA, a_trace(world, experiment_id=other.experiment_id))

    async def test_reading_and_changing_need_grants(self, world: World) -> None:
        await world.traces.start(ADA, a_trace(world))
        for attempt in (
            world.traces.get(BOB, AN_ID),
            world.traces.set_tag(BOB, AN_ID, "k", "v"),
            world.traces.delete(BOB, world.experiment_id, trace_ids=[AN_ID]),
            world.assessments.create(BOB, said()),
        ):
            with pytest.raises(PermissionDenied):
                await attempt
        assert await world.traces.get_many(BOB, [AN_ID]) == []


class TestChanges:
    async def test_tags_are_set_and_deleted(self, world: World) -> None:
        await world.traces.start(ADA, a_trace(world))
        await world.traces.set_tag(ADA, AN_ID, "k", "v" * 8000)
        assert await world.found("tag.k IS NOT NULL") == [AN_ID]
        await world.traces.delete_tag(ADA, AN_ID, "k")
        with pytest.raises(TagNotFound):
            await world.traces.delete_tag(ADA, AN_ID, "k")
        with pytest.raises(InvalidValue):
            await world.traces.set_tag(ADA, AN_ID, "k", "v" * 8001)
        with pytest.raises(InvalidKey):
            await world.traces.set_tag(ADA, AN_ID, "k" * 251, "")
        with pytest.raises(TraceNotFound):
            await world.traces.set_tag(ADA, "tr-none", "k", "")

    async def test_links_to_runs_and_prompts_are_found(self, world: World) -> None:
        run = await world.runs.create(
            ADA,
            experiment_id=world.experiment_id,
            name="",
            started_at=None,
            tags={},
            request_id="",
        )
        run_id = run.info.run_id
        await world.traces.start(ADA, a_trace(world))
        await world.traces.link_to_run(ADA, [AN_ID, "tr-none"], run_id)
        await world.traces.link_prompts(ADA, AN_ID, [("greet", "2")])
        assert await world.found(f"run_id = '{run_id}' AND prompt = 'greet/2'") == [AN_ID]
        with pytest.raises(InvalidValue):
            await world.traces.link_prompts(ADA, AN_ID, [("gr\x00eet", "2")])
        with pytest.raises(InvalidValue, match="more than 100"):
            await world.traces.link_to_run(ADA, ["t"] * 101, run_id)
        with pytest.raises(RunNotFound):
            await world.traces.link_to_run(ADA, [AN_ID], "none")

    async def test_delete_by_id_and_by_time(self, world: World) -> None:
        ids = [trace_id_of(f"{number:032x}") for number in range(1, 6)]
        for number, trace_id in enumerate(ids, 1):
            await world.traces.start(ADA, a_trace(world, trace_id, requested_at=number * SECOND))
        await world.traces.add_spans(ADA, world.experiment_id, [a_span(1)])

        async def delete(**which: object) -> int:
            return await world.traces.delete(ADA, world.experiment_id, **which)  # type: ignore[arg-type]

        assert await delete(trace_ids=[ids[0], "tr-none"]) == 1
        with pytest.raises(TraceNotFound):
            await world.traces.get(ADA, ids[0])
        assert await delete(until=4 * SECOND, limit=2) == 2
        assert await world.found() == [ids[4], ids[3]]
        assert await delete(until=9 * SECOND) == 2
        for wrong in ({}, {"trace_ids": ids, "until": 1}, {"until": 1, "limit": 0}):
            with pytest.raises(InvalidValue):
                await delete(**wrong)
        with pytest.raises(ExperimentNotFound):
            await world.traces.delete(ADA, "none", until=1)


class TestAssessments:
    async def test_their_life(self, world: World) -> None:
        await world.traces.start(ADA, a_trace(world))
        made = await world.assessments.create(ADA, said(metadata={"a": "1"}))
        change = AssessmentChange(
            kind=AssessmentKind.FEEDBACK, value=False, rationale="so", metadata={"b": "2"}
        )
        changed = await world.assessments.update(ADA, AN_ID, made.assessment_id, change)
        assert (changed.value, changed.rationale) == (False, "so")
        assert changed.metadata == {"a": "1", "b": "2"}
        assert changed.updated_at > made.updated_at
        assert await world.assessments.get(ADA, AN_ID, made.assessment_id) == changed
        assert await world.found("feedback.helpful = 'false'") == [AN_ID]
        with pytest.raises(InvalidUpdate, match="Feedback"):
            wrong = replace(change, kind=AssessmentKind.EXPECTATION)
            await world.assessments.update(ADA, AN_ID, made.assessment_id, wrong)
        await world.assessments.delete(ADA, AN_ID, made.assessment_id)
        await world.assessments.delete(ADA, AN_ID, made.assessment_id)
        with pytest.raises(AssessmentNotFound):
            await world.assessments.get(ADA, AN_ID, made.assessment_id)

    async def test_one_may_take_the_place_of_another(self, world: World) -> None:
        await world.traces.start(ADA, a_trace(world))
        first = await world.assessments.create(ADA, said())
        second = await world.assessments.create(ADA, said(overrides=first.assessment_id))

        async def is_valid() -> bool:
            return (await world.assessments.get(ADA, AN_ID, first.assessment_id)).valid

        assert not await is_valid()
        await world.assessments.delete(ADA, AN_ID, second.assessment_id)
        assert await is_valid()
        with pytest.raises(AssessmentNotFound):
            await world.assessments.create(ADA, said(overrides="a-none"))
        with pytest.raises(InvalidValue):
            await world.assessments.create(ADA, said(value="no\x00"))


class TestSearch:
    async def test_both_stores_answer_one_filter_page_by_page(self, world: World) -> None:
        for number in range(1, 8):
            tagged = {"mlflow.traceTag.even": str(number % 2 == 0)}
            slow = {"model": "small"} if number > 2 else {}
            await world.traces.add_spans(
                ADA,
                world.experiment_id,
                [
                    a_span(number, 1, started_at=number * NANO, attributes=tagged),
                    a_span(number, 2, 1, started_at=9 * NANO, attributes=slow),
                ],
            )
        text = "span.attributes.model = 'small' AND tag.even RLIKE '^F'"
        seen: list[str] = []
        token, pages = "", 0
        while token or not pages:
            page = await world.search.traces(
                ADA,
                experiment_ids=[world.experiment_id],
                text=text,
                order_by=["timestamp ASC"],
                size=2,
                token=token,
            )
            seen += [one.trace_id for one in page.traces]
            token, pages = page.next_token, pages + 1
        assert seen == [trace_id_of(f"{number:032x}") for number in (3, 5, 7)]
        assert pages == 2
        with pytest.raises(InvalidPageToken):
            await world.found("status = 'OK'", token="bm9uZQ")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name = 'x' OR name = 'y'", "OR is not supported"),
            ("nope = 'x'", "invalid attribute key 'nope'"),
            ("span.color = 'x'", "invalid span attribute 'color'"),
            ("issue.name = 'x'", "invalid issue attribute 'name'"),
            ("tag.a > 'x'", "> cannot be asked"),
            ("text = 'x'", "= cannot be asked"),
            ("name RLIKE '(x'", "not a regular expression"),
            ("feedback.x > 'high'", "expected numeric value"),
            ("metrics.x > 1", "invalid entity type 'metrics'"),
        ],
    )
    def test_filters_that_do_not_parse(self, text: str, words: str) -> None:
        with pytest.raises(InvalidFilter, match=words.replace("(", r"\(")):
            parse_filter(text, TRACES)
