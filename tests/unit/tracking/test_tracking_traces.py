"""Traces through their use cases: what clients and spans tell, who may do what, searches."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.tracking.adapters.memory import InMemoryStore
from services.tracking.adapters.memory_traces import InMemorySpans
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import TRACES
from services.tracking.domain.traces.assessment import (
    Assessment,
    AssessmentChange,
    AssessmentKind,
)
from services.tracking.domain.traces.metrics import (
    Aggregation,
    Figure,
    MetricsQuery,
    Subject,
)
from services.tracking.domain.traces.span import Span, SpanStatus, trace_id_of
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.errors import (
    AssessmentNotFound,
    ExperimentNotFound,
    InvalidFilter,
    InvalidKey,
    InvalidSpans,
    InvalidUpdate,
    InvalidValue,
    RunNotFound,
    TagNotFound,
    TraceNotFound,
)
from services.tracking.handlers.access import Access
from services.tracking.handlers.assessments import Assessments
from services.tracking.handlers.experiments import Experiments
from services.tracking.handlers.runs import Runs
from services.tracking.handlers.trace_metrics import TraceMetrics
from services.tracking.handlers.trace_search import TraceSearch
from services.tracking.handlers.traces import Traces
from services.tracking.otlp import decode_export, inflate, spans_in
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import SystemClock
from tessera_kit.errors import InvalidArgument, PermissionDenied
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.pages import InvalidPageToken

ADA, BOB = Principal("ada"), Principal("bob")
SECOND = 1_000_000
NANO = 1_000_000_000
AN_ID = trace_id_of(f"{1:032x}")


@dataclass(frozen=True)
class World:
    traces: Traces
    assessments: Assessments
    search: TraceSearch
    metrics: TraceMetrics
    experiments: Experiments
    runs: Runs
    spans: InMemorySpans
    experiment_id: str

    async def found(self, text: str = "", **asked: object) -> list[str]:
        page = await self.search.traces(
            ADA,
            **{
                "experiment_ids": [self.experiment_id],
                "text": text,
                "order_by": [],
                "size": 100,
                "token": "",
                **asked,
            },  # type: ignore[arg-type]
        )
        return [one.trace_id for one in page.traces]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    authority = InMemoryAuthority()
    for principal in (ADA, BOB):
        authority.add_principal(principal, f"token-{principal.name}")
        authority.grant(
            principal.name,
            [securable_pb2.PRIVILEGE_CREATE_EXPERIMENT],
            securable_pb2.SECURABLE_TYPE_METASTORE,
            "metastore",
        )
    store, spans, clock = InMemoryStore(), InMemorySpans(), SystemClock()
    access = Access(authority, store)
    experiments = Experiments(store, access, clock, artifact_root="s3://bucket/tracking")
    made = await experiments.create(ADA, name="chats", tags={}, request_id="")
    traces = Traces(store, spans, access, clock)
    yield World(
        traces=traces,
        assessments=Assessments(store, traces, clock),
        search=TraceSearch(store, spans, access),
        metrics=TraceMetrics(store, spans, access),
        experiments=experiments,
        runs=Runs(store, access, clock),
        spans=spans,
        experiment_id=made.experiment_id,
    )


def a_span(trace: int = 1, number: int = 1, parent: int = 0, **changes: object) -> Span:
    made = Span(
        trace_id=f"{trace:032x}",
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name="chat" if number == 1 else f"step {number}",
        started_at=number * NANO,
        ended_at=10 * NANO,
        status=SpanStatus.OK,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def a_trace(world: World, trace_id: str = AN_ID, **changes: object) -> Trace:
    made = Trace(
        trace_id=trace_id,
        experiment_id=world.experiment_id,
        requested_at=2 * SECOND,
        duration=SECOND,
        state=TraceState.OK,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


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


def said(name: str = "helpful", value: object = True, **changes: object) -> Assessment:
    made = Assessment(
        assessment_id="",
        trace_id=AN_ID,
        name=name,
        kind=AssessmentKind.FEEDBACK,
        value=value,
        created_at=1,
        updated_at=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


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
        assert await self.asked(
            told,
            "assessment_value",
            Figure(Aggregation.AVG),
            subject="ASSESSMENTS",
            filters=["assessment.name = 'helpful'", "trace.status = 'OK'"],
        ) == [({}, {"AVG": pytest.approx(2 / 3)})]
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


class TestOtlp:
    def test_json_and_protobuf_are_read_alike(self) -> None:
        told = {
            "resourceSpans": [
                {
                    "resource": {
                        "attributes": [{"key": "service.name", "value": {"stringValue": "app"}}]
                    },
                    "scopeSpans": [
                        {
                            "scope": {"name": "lib", "version": "1"},
                            "spans": [
                                {
                                    "traceId": "5B8EFFF798038103D269B633813FC60C",
                                    "spanId": "eee19b7ec3c1b174",
                                    "parentSpanId": "eee19b7ec3c1b173",
                                    "name": "I'm",
                                    "startTimeUnixNano": "1544712660000000001",
                                    "endTimeUnixNano": "1544712661000000002",
                                    "kind": 3,
                                    "status": {"code": 2, "message": "no"},
                                    "attributes": [
                                        {"key": "n", "value": {"intValue": "5"}},
                                        {"key": "b", "value": {"boolValue": True}},
                                        {
                                            "key": "l",
                                            "value": {
                                                "arrayValue": {"values": [{"doubleValue": 1.5}]}
                                            },
                                        },
                                    ],
                                    "unknown": 1,
                                }
                            ],
                        }
                    ],
                }
            ]
        }
        request = decode_export(json.dumps(told).encode(), "application/json; charset=utf-8")
        (span,) = spans_in(request)
        assert span.trace_id == "5b8efff798038103d269b633813fc60c"
        assert (span.span_id, span.parent_id) == ("eee19b7ec3c1b174", "eee19b7ec3c1b173")
        assert (span.started_at, span.duration) == (1544712660000000001, 1_000_000_001)
        assert (span.kind, span.status, span.status_message) == ("Client", "Error", "no")
        assert span.attributes == {"n": "5", "b": "true", "l": "[1.5]"}
        assert span.resource == {"service.name": "app"}
        again = decode_export(request.SerializeToString(), "application/x-protobuf")
        assert spans_in(again) == [span]

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"{}", "text/plain"),
            (b"{}", "application/json"),
            (b"[1]", "application/json"),
            (b"{", "application/json"),
            (b'{"resourceSpans": 5}', "application/json"),
            (b"\xff\xff", "application/x-protobuf"),
            (b"", "application/x-protobuf"),
        ],
    )
    def test_what_is_no_export_is_refused(self, body: bytes, content_type: str) -> None:
        with pytest.raises(InvalidSpans):
            decode_export(body, content_type)

    @pytest.mark.parametrize(
        "span",
        [
            {"traceId": "", "spanId": "eee19b7ec3c1b174"},
            {"traceId": "0" * 32, "spanId": "eee19b7ec3c1b174"},
            {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "ee"},
            {
                "traceId": "5b8efff798038103d269b633813fc60c",
                "spanId": "eee19b7ec3c1b174",
                "endTimeUnixNano": str(2**63),
            },
        ],
    )
    def test_spans_without_ids_or_times_are_refused(self, span: dict[str, str]) -> None:
        body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
        with pytest.raises(InvalidSpans):
            spans_in(decode_export(body.encode(), "application/json"))

    def test_bodies_may_be_compressed(self) -> None:
        import gzip
        import zlib

        plain = ExportTraceServiceRequest().SerializeToString() + b"x" * 100
        assert inflate(gzip.compress(plain), "gzip") == plain
        assert inflate(zlib.compress(plain), "deflate") == plain
        assert inflate(plain, "") == plain
        for body, encoding in (
            (b"none", "gzip"),
            (gzip.compress(plain)[:-9], "gzip"),
            (plain, "br"),
            (b64encode(plain), "deflate"),
        ):
            with pytest.raises(InvalidSpans):
                inflate(body, encoding)
