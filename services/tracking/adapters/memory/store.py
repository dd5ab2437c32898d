"""The store of entities and points in memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa

from services.tracking.adapters.memory.evaluation import InMemoryEvaluation, InMemoryScorers
from services.tracking.adapters.memory.pages import Item, page_of
from services.tracking.adapters.memory.purges import InMemoryPurges
from services.tracking.adapters.memory.reviews import InMemoryReviews
from services.tracking.adapters.memory.state import State
from services.tracking.adapters.memory.traces import InMemoryTraces
from services.tracking.adapters.memory.transaction import (
    InMemoryTransaction,
    PointSets,
    merge_points,
)
from services.tracking.adapters.memory.webhooks import InMemoryWebhooks
from services.tracking.domain.buckets import Bucket, Steps, bucket_width
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.logged_model import LoggedModel, ModelLink, RunDataset
from services.tracking.domain.metrics import Point, identity
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetUse, Run, RunInfo
from services.tracking.domain.search.evaluate import experiment_values, run_values
from services.tracking.errors import ExperimentNameTaken
from services.tracking.ports.store import POINT_SCHEMA, ExperimentQuery, RunQuery
from services.tracking.ports.transaction import RequestKey, Transaction
from tessera_kit.bus.event import Event

__all__ = ["InMemoryPoints", "InMemoryStore", "Snapshot"]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is stored, and the events that were told."""

    state: State
    told: tuple[Event, ...]


class InMemoryStore:
    """The store as dictionaries; `told` holds the events of committed works, in order."""

    def __init__(self) -> None:
        self._state = State()
        self._writer = asyncio.Lock()
        self.told: list[Event] = []

    @asynccontextmanager
    async def read(self) -> AsyncIterator[InMemoryWork]:
        """Look at the last commit."""
        yield InMemoryWork(self, self._state)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[InMemoryWork]:
        """Begin a transaction; one runs at a time."""
        async with self._writer:
            yield InMemoryWork(self, self._state.copy())

    async def transact(self, task: Callable[[Transaction], T]) -> T:
        """Run a task on a copy of the state, which is then the state."""
        async with self._writer:
            state = self._state.copy()
            transaction = InMemoryTransaction(
                state.experiments, state.runs, state.points, state.requests
            )
            result = task(transaction)
            self.keep(state, transaction.events)
            return result

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        """Return a metric as buckets."""
        return await InMemoryPoints(self._state.points).buckets(run_id, key, steps, count)

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """Return metrics as buckets."""
        return await InMemoryPoints(self._state.points).curves(run_id, keys, count)

    def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        """Return all points of runs as Arrow batches."""
        return InMemoryPoints(self._state.points).export(run_ids, keys)

    async def forget_points(self, run_ids: Collection[str]) -> None:
        """Forget all points of runs."""
        async with self._writer:
            state = self._state.copy()
            await InMemoryPoints(state.points).delete(run_ids)
            self.keep(state, [])

    def snapshot(self) -> Snapshot:
        """Return all that is stored and was told, to compare with what is later."""
        return Snapshot(self._state.copy(), tuple(self.told))

    def keep(self, state: State, events: list[Event]) -> None:
        """Make a work's state the stored one."""
        self._state = state.copy()
        self.told += events


class InMemoryWork:
    """A view of a state, and a transaction on it."""

    def __init__(self, store: InMemoryStore, state: State) -> None:
        self._store = store
        self._state = state
        self._events: list[Event] = []
        self.experiments = _Experiments(state)
        self.runs = _Runs(state)
        self.metrics = InMemoryPoints(state.points)
        self.traces = InMemoryTraces(state.traces)
        self.evaluation = InMemoryEvaluation(state.datasets, state.records)
        self.scorers = InMemoryScorers(state.scorers)
        self.models = _Models(state)
        self.webhooks = InMemoryWebhooks(state.webhooks, state.deliveries, state.given_up)
        self.reviews = InMemoryReviews(state.reviews, state.review_items, state.traces)
        self.purges = InMemoryPurges(state)

    async def result_of(self, request: RequestKey) -> str | None:
        """Return the id of what a request created."""
        return self._state.requests.get(request)

    async def claim(self, request: RequestKey, resource_id: str) -> str | None:
        """Note that a request creates a resource."""
        known = self._state.requests.setdefault(request, resource_id)
        return None if known == resource_id else known

    async def hear(self, group: str, event_id: str) -> bool:
        """Note that a group handles an event; return whether it did not before."""
        new = (group, event_id) not in self._state.heard
        self._state.heard[group, event_id] = None
        return new

    def publish(self, event: Event) -> None:
        """Tell an event with the commit."""
        self._events.append(event)

    async def commit(self) -> None:
        """Make what was written the stored state."""
        self._store.keep(self._state, self._events)
        self._events = []


class _Experiments:
    def __init__(self, state: State) -> None:
        self._all = state.experiments

    async def get(self, experiment_id: str) -> Experiment | None:
        return self._all.get(experiment_id)

    async def by_name(self, name: str) -> Experiment | None:
        return next((one for one in self._all.values() if one.name == name), None)

    async def find(self, query: ExperimentQuery) -> list[Experiment]:
        items = [
            Item(experiment_values(one), one.created_at, one.experiment_id, one)
            for one in self._all.values()
            if query.stage in {None, one.stage}
        ]
        return [item.thing for item in page_of(items, query)]

    async def lock(self, experiment_id: str, *, shared: bool = False) -> Experiment | None:
        return self._all.get(experiment_id)

    async def add(self, experiment: Experiment) -> None:
        await self.put(experiment)

    async def put(self, experiment: Experiment) -> None:
        other = await self.by_name(experiment.name)
        if other is not None and other.experiment_id != experiment.experiment_id:
            raise ExperimentNameTaken(experiment.name)
        self._all[experiment.experiment_id] = experiment


class _Runs:
    def __init__(self, state: State) -> None:
        self._all = state.runs

    async def get(self, run_id: str) -> Run | None:
        return self._all.get(run_id)

    async def info(self, run_id: str) -> RunInfo | None:
        run = self._all.get(run_id)
        return None if run is None else run.info

    async def find(self, query: RunQuery) -> AsyncGenerator[Run, None]:
        items = [
            Item(run_values(run), run.info.started_at, run.info.run_id, run)
            for run in self._all.values()
            if run.info.experiment_id in query.experiment_ids
            and query.stage in {None, run.info.stage}
        ]
        for item in page_of(items, query):
            yield item.thing

    async def datasets(self, experiment_ids: Collection[str], *, limit: int) -> list[DatasetUse]:
        used = {
            DatasetUse(run.info.experiment_id, one)
            for run in self._all.values()
            if run.info.experiment_id in experiment_ids
            for one in run.inputs
        }
        return sorted(used)[:limit]

    async def lock(self, run_ids: Collection[str]) -> dict[str, RunInfo]:
        return {run_id: self._all[run_id].info for run_id in run_ids if run_id in self._all}

    async def put(self, run: RunInfo) -> None:
        self._all[run.run_id] = replace(self._all[run.run_id], info=run)

    async def move_all(self, experiment_id: str, stage: LifecycleStage, *, at: Micros) -> None:
        deleting = stage is LifecycleStage.DELETED
        for run in list(self._all.values()):
            info = run.info
            if info.experiment_id != experiment_id or info.stage is stage:
                continue
            if deleting or info.deleted_with_experiment:
                moved = replace(
                    info,
                    stage=stage,
                    deleted_with_experiment=deleting,
                    deleted_at=at if deleting else None,
                )
                await self.put(moved)

    async def remove_tag(self, run_id: str, key: str) -> bool:
        run = self._all[run_id]
        tags = {name: value for name, value in run.tags.items() if name != key}
        self._all[run_id] = replace(run, tags=tags)
        return key in run.tags


class InMemoryPoints:
    """The point archive as a dictionary."""

    def __init__(self, points: PointSets | None = None) -> None:
        self._points: PointSets = {} if points is None else points

    async def add(self, points: Mapping[str, Points]) -> None:
        """Store points."""
        merge_points(self._points, points)

    async def delete(self, run_ids: Collection[str]) -> None:
        """Forget all points of runs."""
        for key in [key for key in self._points if key[0] in run_ids]:
            del self._points[key]

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """Return points of a metric by step, time and value."""
        points = sorted(self._points.get((run_id, key), ()), key=identity)
        if after is not None:
            points = [point for point in points if identity(point) > identity(after)]
        return points[:limit]

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        """Return a metric as buckets."""
        points = sorted(self._points.get((run_id, key), ()), key=identity)
        first = steps.first if steps.first is not None else min((p.step for p in points), default=0)
        last = steps.last if steps.last is not None else max((p.step for p in points), default=0)
        if first > last:
            return []
        width = bucket_width(first, last, count)
        found: dict[int, list[Point]] = {}
        for point in points:
            if first <= point.step <= last:
                found.setdefault((point.step - first) // width, []).append(point)
        return [_bucket(those) for those in found.values()]

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """Return metrics as buckets."""
        found = {key: await self.buckets(run_id, key, Steps(), count) for key in keys}
        return {key: buckets for key, buckets in found.items() if buckets}

    async def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        """Return all points of runs as Arrow batches."""
        for (run_id, key), points in sorted(self._points.items()):
            if run_id in run_ids and (not keys or key in keys):
                rows = sorted(points, key=identity)
                yield pa.record_batch(
                    [[run_id] * len(rows), *map(list, zip(*rows, strict=True))], POINT_SCHEMA
                )


def _bucket(points: Sequence[Point]) -> Bucket:
    values = [point.value for point in points if not math.isnan(point.value)]
    times = [point.timestamp for point in points]
    return Bucket(
        points[0].step,
        points[-1].step,
        min(times),
        max(times),
        len(points),
        len(points) - len(values),
        min(values, default=math.nan),
        max(values, default=math.nan),
        sum(values) / len(values) if values else math.nan,
    )


class _Models:
    def __init__(self, state: State) -> None:
        self._state = state

    async def get(self, model_id: str) -> LoggedModel | None:
        return self._state.models.get(model_id)

    async def lock(self, model_id: str) -> LoggedModel | None:
        return self._state.models.get(model_id)

    async def add(self, model: LoggedModel) -> None:
        self._state.models[model.model_id] = model

    async def put(self, model: LoggedModel) -> None:
        self._state.models[model.model_id] = model

    async def of_experiments(self, experiment_ids: Collection[str]) -> list[LoggedModel]:
        found = [
            one
            for one in self._state.models.values()
            if one.experiment_id in experiment_ids and one.stage is LifecycleStage.ACTIVE
        ]
        return sorted(found, key=lambda one: (one.created_at, one.model_id), reverse=True)

    async def link(self, run_id: str, links: Collection[ModelLink]) -> None:
        self._state.links.update(((run_id, one), None) for one in links)

    async def links(self, run_ids: Collection[str]) -> dict[str, list[ModelLink]]:
        found: dict[str, list[ModelLink]] = {}
        for run_id, link in sorted(self._state.links):
            if run_id in run_ids:
                found.setdefault(run_id, []).append(link)
        return found

    async def describe(self, run_id: str, datasets: Collection[RunDataset]) -> None:
        for one in datasets:
            self._state.run_datasets[run_id, one.name, one.digest, one.context] = one

    async def described(self, run_ids: Collection[str]) -> dict[str, list[RunDataset]]:
        found: dict[str, list[RunDataset]] = {}
        for (run_id, *_), dataset in sorted(
            self._state.run_datasets.items(), key=lambda pair: pair[0]
        ):
            if run_id in run_ids:
                found.setdefault(run_id, []).append(dataset)
        return found
