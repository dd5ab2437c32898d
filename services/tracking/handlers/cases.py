"""The use cases that doors open to."""

from __future__ import annotations

from dataclasses import dataclass

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
from services.tracking.handlers.webhooks import Webhooks

__all__ = ["UseCases"]


@dataclass(frozen=True, slots=True)
class UseCases:
    """All of them."""

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
    webhooks: Webhooks | None = None
    """None where nobody reaches their receivers."""
    registry: Registry | None = None
    """None where there is no catalog to register with."""
