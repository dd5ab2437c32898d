"""All use cases, put together over whatever implements the ports."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.tracking.handlers.access import Access
from services.tracking.handlers.artifacts import Artifacts
from services.tracking.handlers.assessments import Assessments
from services.tracking.handlers.evaluation import EvaluationDatasets
from services.tracking.handlers.experiments import Experiments
from services.tracking.handlers.issues import Issues
from services.tracking.handlers.label_schemas import LabelSchemas
from services.tracking.handlers.log import RunLog
from services.tracking.handlers.metrics import Metrics
from services.tracking.handlers.models import LoggedModels
from services.tracking.handlers.registry import Registry
from services.tracking.handlers.retention import Retention
from services.tracking.handlers.review_desk import ReviewDesk
from services.tracking.handlers.review_queues import ReviewQueues
from services.tracking.handlers.runs import Runs
from services.tracking.handlers.scorers import Scorers
from services.tracking.handlers.search import Search
from services.tracking.handlers.trace_correlation import TraceCorrelation
from services.tracking.handlers.trace_metrics import TraceMetrics
from services.tracking.handlers.trace_search import TraceSearch
from services.tracking.handlers.traces import Traces
from services.tracking.handlers.transfers import Transfers
from services.tracking.handlers.version_files import VersionFiles
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.ports.artifacts import ArtifactStore
from services.tracking.ports.models import ModelRegistry
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore
from services.tracking.ports.webhooks import Hooks
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.rpc.authority import Authority

__all__ = ["Outside", "Places", "UseCases", "build_use_cases"]


@dataclass(frozen=True, slots=True)
class Outside:
    """What the use cases deal with."""

    store: Store
    files: ArtifactStore
    spans: SpanStore
    authority: Authority
    registry: ModelRegistry | None = None
    """The catalog's models; nothing is registered when None."""
    hooks: Hooks | None = None
    """What webhooks need; there are none when None."""
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things land of which nobody says where."""

    artifact_root: str
    """URL below which artifacts are kept."""
    default_schema: str = "main.default"
    """Of registered models with plain names."""


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service can do."""

    experiments: Experiments
    runs: Runs
    log: RunLog
    metrics: Metrics
    search: Search
    artifacts: Artifacts
    transfers: Transfers
    traces: Traces
    trace_search: TraceSearch
    trace_metrics: TraceMetrics
    trace_correlation: TraceCorrelation
    assessments: Assessments
    evaluation: EvaluationDatasets
    scorers: Scorers
    reviews: ReviewDesk
    label_schemas: LabelSchemas
    review_queues: ReviewQueues
    issues: Issues
    models: LoggedModels
    retention: Retention
    webhooks: Webhooks | None = None
    """None where nobody reaches their receivers."""
    registry: Registry | None = None
    """None where there is no catalog to register with."""


def build_use_cases(outside: Outside, places: Places) -> UseCases:
    """Put the use cases together."""
    store, spans, clock = outside.store, outside.spans, outside.clock
    access = Access(outside.authority, store)
    search = Search(store, access)
    traces = Traces(store, spans, access, clock)
    artifacts = Artifacts(store, outside.files, access)
    models = LoggedModels(store, access, clock)
    reviews = ReviewDesk(store, access, clock)
    return UseCases(
        experiments=Experiments(store, access, clock, artifact_root=places.artifact_root),
        runs=Runs(store, access, clock),
        log=RunLog(store, access, clock),
        metrics=Metrics(store, access, search),
        search=search,
        artifacts=artifacts,
        transfers=Transfers(artifacts, outside.files),
        traces=traces,
        trace_search=TraceSearch(store, spans, access),
        trace_metrics=TraceMetrics(store, spans, access),
        trace_correlation=TraceCorrelation(store, spans, access),
        assessments=Assessments(store, traces, clock),
        evaluation=EvaluationDatasets(store, access, clock),
        scorers=Scorers(store, access, clock),
        reviews=reviews,
        label_schemas=LabelSchemas(reviews),
        review_queues=ReviewQueues(reviews),
        issues=Issues(reviews),
        models=models,
        retention=Retention(store, access, clock),
        webhooks=Webhooks(store, access, outside.hooks, clock) if outside.hooks else None,
        registry=_registry(outside.registry, artifacts, models, places.default_schema),
    )


def _registry(
    registry: ModelRegistry | None, artifacts: Artifacts, models: LoggedModels, default_schema: str
) -> Registry | None:
    if registry is None:
        return None
    files = VersionFiles(registry, artifacts, models, default_schema=default_schema)
    return Registry(registry, files, default_schema=default_schema)
