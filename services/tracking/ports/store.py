"""What tracking needs to keep: a transactional store of its entities and of its points."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import pyarrow as pa

from services.tracking.domain.buckets import Bucket, Steps
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetUse, Run, RunInfo
from services.tracking.domain.search.paging import Position
from services.tracking.domain.search.syntax import Filter, OrderKey
from services.tracking.ports.evaluation import EvaluationStore, ScorerStore
from services.tracking.ports.models import ModelStore
from services.tracking.ports.retention import PurgeStore
from services.tracking.ports.reviews import ReviewStore
from services.tracking.ports.traces import TraceStore
from services.tracking.ports.transaction import RequestKey, Transaction
from services.tracking.ports.webhooks import WebhookStore
from tessera_kit.bus.event import Event

__all__ = [
    "POINT_SCHEMA",
    "ExperimentQuery",
    "ExperimentStore",
    "MetricStore",
    "PointArchive",
    "RunQuery",
    "RunStore",
    "Store",
    "View",
    "Work",
]

T = TypeVar("T")

POINT_SCHEMA: Final = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""Columns of exported points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentQuery:
    """Which experiments to find: by `order`, then the newest first."""

    filter: Filter = ()
    order: tuple[OrderKey, ...] = ()
    stage: LifecycleStage | None = LifecycleStage.ACTIVE
    """The stage that they are in; None for any."""
    limit: int
    after: Position | None = None
    """Where the page before ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs to find: by `order`, then the newest first."""

    experiment_ids: Collection[str]
    filter: Filter = ()
    order: tuple[OrderKey, ...] = ()
    stage: LifecycleStage | None = LifecycleStage.ACTIVE
    """The stage that they are in; None for any."""
    limit: int
    after: Position | None = None
    """Where the page before ended."""


class ExperimentStore(Protocol):
    """Experiments; names are unique among all of them, deleted ones included."""

    async def get(self, experiment_id: str) -> Experiment | None:
        """Return the experiment; None when there is none."""

    async def by_name(self, name: str) -> Experiment | None:
        """Return the experiment of that name; None when there is none."""

    async def find(self, query: ExperimentQuery) -> list[Experiment]:
        """Return at most `query.limit` experiments, in order."""

    async def lock(self, experiment_id: str, *, shared: bool = False) -> Experiment | None:
        """As `get`; until the work ends nobody changes it, nor, unless `shared`, locks it too."""

    async def add(self, experiment: Experiment) -> None:
        """Store a new experiment.

        Raises:
            ExperimentNameTaken: Another one has its name.
        """

    async def put(self, experiment: Experiment) -> None:
        """Store the new state of a locked experiment.

        Raises:
            ExperimentNameTaken: Another one has its name.
        """


class RunStore(Protocol):
    """Runs with their parameters, tags, inputs and latest metrics."""

    async def get(self, run_id: str) -> Run | None:
        """Return the run with all that was logged; None when there is none."""

    async def info(self, run_id: str) -> RunInfo | None:
        """Return the run itself; None when there is none."""

    def find(self, query: RunQuery) -> AsyncGenerator[Run, None]:
        """Yield at most `query.limit` runs, in order; few are in memory at a time."""

    async def datasets(self, experiment_ids: Collection[str], *, limit: int) -> list[DatasetUse]:
        """Return at most `limit` data sets that runs of experiments used, each once, in order.

        Runs count in any stage.
        """

    async def lock(self, run_ids: Collection[str]) -> dict[str, RunInfo]:
        """Return the runs that there are; until the work ends nobody else locks them.

        Locks are taken in one order for all callers, so that no two of them wait for each other.
        """

    async def put(self, run: RunInfo) -> None:
        """Store the new state of a locked run."""

    async def move_all(self, experiment_id: str, stage: LifecycleStage, *, at: Micros) -> None:
        """Delete the active runs of a locked experiment, or restore those deleted with it.

        Args:
            experiment_id: Whose runs.
            stage: Where they go.
            at: The time; deleted runs keep it.
        """

    async def remove_tag(self, run_id: str, key: str) -> bool:
        """Remove a tag of a locked run; return whether it had it."""


class MetricStore(Protocol):
    """Points of metrics; a run's points are a set."""

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """Return at most `limit` points of a metric, by step, time and value (NaN last).

        Args:
            run_id: The run; no points when there is none.
            key: The metric.
            after: The last point of the page before; None for the first page.
            limit: Number of points.
        """


class PointArchive(Protocol):
    """Where points go in the long run; a run's points are a set there too.

    Whoever adds calls again until it succeeds, so adding must be idempotent: a point that was added
    twice, in one call or in several, also by calls that failed, is read once.
    """

    async def add(self, points: Mapping[str, Points]) -> None:
        """Store points, by run id, durably: the next read sees them.

        Raises:
            Unavailable: The archive is away; some of the points may have been stored.
        """

    async def delete(self, run_ids: Collection[str]) -> None:
        """Forget all points of runs: no later read sees them.

        Raises:
            Unavailable: The archive is away; some may be forgotten.
        """

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """As `MetricStore.history`, of what was added here.

        Raises:
            Unavailable: The archive is away.
        """

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        """As `Store.buckets`, of what was added here."""

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """As `Store.curves`, of what was added here."""

    def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        """As `Store.export`, of what was added here."""


class View(Protocol):
    """A look at the store; reads see every work that was committed before the look began."""

    @property
    def experiments(self) -> ExperimentStore:
        """Experiments."""

    @property
    def runs(self) -> RunStore:
        """Runs."""

    @property
    def metrics(self) -> MetricStore:
        """Points of metrics."""

    @property
    def traces(self) -> TraceStore:
        """Traces."""

    @property
    def evaluation(self) -> EvaluationStore:
        """Evaluation data sets."""

    @property
    def scorers(self) -> ScorerStore:
        """Scorers."""

    @property
    def models(self) -> ModelStore:
        """Models that runs log."""

    @property
    def webhooks(self) -> WebhookStore:
        """Who is told of the registry, and what is on its way to them."""

    @property
    def reviews(self) -> ReviewStore:
        """Questions about traces, queues of traces and issues."""

    @property
    def purges(self) -> PurgeStore:
        """What was deleted, and what is being removed for good."""

    async def result_of(self, request: RequestKey) -> str | None:
        """Return the id of what a request created; None when it created nothing yet."""


class Work(View, Protocol):
    """One transaction: all that it writes and tells is stored by `commit`, or nothing of it."""

    async def claim(self, request: RequestKey, resource_id: str) -> str | None:
        """Note that a request creates a resource.

        Returns:
            The id of what the request created before; None when this is the first time.
        """

    async def hear(self, group: str, event_id: str) -> bool:
        """Note that a consumer group handles an event; return whether it did not before."""

    def publish(self, event: Event) -> None:
        """Tell an event when, and only when, this work commits."""

    async def commit(self) -> None:
        """Store everything, durably: a process killed right after has it."""


class Store(Protocol):
    """Where tracking keeps what it owns."""

    def read(self) -> AbstractAsyncContextManager[View]:
        """Look at the store."""

    def write(self) -> AbstractAsyncContextManager[Work]:
        """Begin a transaction; leaving the block without `commit` drops it."""

    async def transact(self, task: Callable[[Transaction], T]) -> T:
        """Return what a task returns, after all that it wrote and told is stored durably.

        The task runs in the database's thread, all of it in one go: it computes and calls the
        transaction, and waits for nothing else. Raising, it leaves nothing behind.

        Raises:
            StoreBusy: Nothing was stored.
        """

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        """Return a metric as at most `count` buckets, by step; those without points are left out.

        Buckets are `bucket_width` wide, from the first step of the range, or of the metric, on.
        Every point that was committed before counts once.

        Raises:
            Unavailable: What computes them is away.
        """

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """Return what `buckets` does of each of several metrics, in their order.

        Metrics without points are left out.

        Args:
            run_id: The run.
            keys: The metrics, none twice.
            count: How many buckets each has at most.

        Raises:
            Unavailable: What computes them is away.
        """

    def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        """Return all points of runs as Arrow batches of POINT_SCHEMA, each point once.

        Every point that was committed before is there; they come run by run, by metric and in the
        order of histories.

        Args:
            run_ids: The runs.
            keys: The metrics; all when empty.

        Raises (at the first batch):
            Unavailable: The archive is away.
        """

    async def forget_points(self, run_ids: Collection[str]) -> None:
        """Forget all points of runs that are being removed, and take no more of them.

        Raises:
            Unavailable: The archive is away; some may be forgotten.
        """
