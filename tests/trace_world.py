"""Traces through their use cases, over adapters in memory: what the unit tests share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.tracking.adapters.memory.store import InMemoryStore
from services.tracking.adapters.memory.traces import InMemorySpans
from services.tracking.domain.traces.assessment import Assessment, AssessmentKind
from services.tracking.domain.traces.span import Span, SpanStatus, trace_id_of
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.handlers.access import Access
from services.tracking.handlers.assessments import Assessments
from services.tracking.handlers.experiments import Experiments
from services.tracking.handlers.runs import Runs
from services.tracking.handlers.trace_correlation import TraceCorrelation
from services.tracking.handlers.trace_metrics import TraceMetrics
from services.tracking.handlers.trace_search import TraceSearch
from services.tracking.handlers.traces import Traces
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal

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
    correlation: TraceCorrelation
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


async def a_world() -> World:
    """Use cases over an empty store; `ADA` owns the experiment, `BOB` may create his own."""
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
    return World(
        traces=traces,
        assessments=Assessments(store, traces, clock),
        search=TraceSearch(store, spans, access),
        metrics=TraceMetrics(store, spans, access),
        correlation=TraceCorrelation(store, spans, access),
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
