"""What the store in memory holds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from services.tracking.adapters.memory.transaction import PointSets
from services.tracking.domain.evaluation import (
    EvaluationDataset,
    EvaluationRecord,
    ScorerVersion,
)
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.logged_model import LoggedModel, ModelLink, RunDataset
from services.tracking.domain.retention import Kind, Purge
from services.tracking.domain.reviews import ReviewItem
from services.tracking.domain.run import Run
from services.tracking.domain.traces.trace import Trace
from services.tracking.domain.webhooks import Delivery, GivenUp, Webhook
from services.tracking.ports.reviews import Reviewed
from services.tracking.ports.transaction import RequestKey

__all__ = ["State"]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is stored; values are never changed in place, so a copy is shallow."""

    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    points: PointSets = field(default_factory=dict)
    requests: dict[RequestKey, str] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    datasets: dict[str, EvaluationDataset] = field(default_factory=dict)
    records: dict[tuple[str, str], EvaluationRecord] = field(default_factory=dict)
    scorers: dict[tuple[str, str, int], ScorerVersion] = field(default_factory=dict)
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    given_up: dict[str, GivenUp] = field(default_factory=dict)
    heard: dict[tuple[str, str], None] = field(default_factory=dict)
    reviews: dict[tuple[type[Reviewed], str], Reviewed] = field(default_factory=dict)
    review_items: dict[tuple[str, str], ReviewItem] = field(default_factory=dict)
    models: dict[str, LoggedModel] = field(default_factory=dict)
    links: dict[tuple[str, ModelLink], None] = field(default_factory=dict)
    run_datasets: dict[tuple[str, str, str, str], RunDataset] = field(default_factory=dict)
    doomed: dict[tuple[Kind, str], Experiment | Run | LoggedModel] = field(default_factory=dict)
    doomed_traces: dict[str, Trace] = field(default_factory=dict)
    purges: dict[tuple[Kind, str], tuple[Purge, Micros]] = field(default_factory=dict)

    def copy(self) -> State:
        """Return a state that changes by itself."""
        return State(**{one.name: dict(getattr(self, one.name)) for one in fields(self)})
