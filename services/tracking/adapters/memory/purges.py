"""What was deleted, and what is being removed for good, in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from services.tracking.adapters.memory.state import State
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.logged_model import LoggedModel
from services.tracking.domain.retention import Deleted, Kind, Purge
from services.tracking.domain.reviews import ReviewQueue
from services.tracking.domain.run import Run

__all__ = ["InMemoryPurges"]

_Thing = Experiment | Run | LoggedModel


class InMemoryPurges:
    """The store of purges over a transaction's state; what is marked is moved out of sight."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def deleted(self, kind: Kind, *, by: Micros, limit: int) -> list[Deleted]:
        """Return what was deleted by a time, the earliest first."""
        found = [
            (one.deleted_at, one.id, one)
            for thing in self._all(kind).values()
            if not (isinstance(thing, Run) and thing.info.deleted_with_experiment)
            and (one := _deleted(thing)).deleted_at is not None
            and one.deleted_at <= by
        ]
        return [one for *_, one in sorted(found)[:limit]]

    async def known(self, kind: Kind, ids: Collection[str]) -> dict[str, Deleted]:
        """Return what there is of ids, deleted or not."""
        things = self._all(kind)
        return {one: _deleted(things[one]) for one in ids if one in things}

    async def mark(self, kind: Kind, ids: Collection[str], *, by: Micros, at: Micros) -> set[str]:
        """Mark what was deleted by a time, an experiment with all of its runs and models."""
        marked: set[str] = set()
        for one in (await self.known(kind, ids)).values():
            if one.deleted_at is None or one.deleted_at > by:
                continue
            marked.add(one.id)
            self._hide(kind, one.id)
            purge = Purge(kind, one.id, one.experiment_id, is_late=False)
            self._state.purges[kind, one.id] = (purge, at)
            if kind is Kind.EXPERIMENT:
                for part in (Kind.RUN, Kind.MODEL):
                    for thing in list(map(_deleted, self._all(part).values())):
                        if thing.experiment_id == one.id:
                            self._hide(part, thing.id)
                for trace in list(self._state.traces.values()):
                    if trace.experiment_id == one.id:
                        self._state.doomed_traces[trace.trace_id] = trace
                        del self._state.traces[trace.trace_id]
        return marked

    async def waiting(self, now: Micros, *, limit: int) -> list[Purge]:
        """Return purges that are due, the earliest first."""
        due = [(at, key, purge) for key, (purge, at) in self._state.purges.items() if at <= now]
        return [purge for *_, purge in sorted(due)[:limit]]

    async def under_way(self) -> int:
        """Return how many purges have not removed everything once."""
        return sum(not purge.is_late for purge, _ in self._state.purges.values())

    async def inside(self, kind: Kind, experiment_id: str, *, limit: int) -> list[str]:
        """Return ids of marked runs or models of an experiment."""
        found = [
            one
            for (of, one), thing in self._state.doomed.items()
            if of is kind and _deleted(thing).experiment_id == experiment_id
        ]
        return found[:limit]

    async def traces_inside(self, experiment_id: str, *, limit: int) -> list[str]:
        """Return ids of traces of a marked experiment."""
        traces = self._state.doomed_traces.values()
        return [one.trace_id for one in traces if one.experiment_id == experiment_id][:limit]

    async def remove_traces(self, trace_ids: Collection[str]) -> None:
        """Remove traces of marked experiments, with all that is said of them."""
        for trace_id in trace_ids:
            self._state.doomed_traces.pop(trace_id, None)
        for item in [key for key in self._state.review_items if key[1] in trace_ids]:
            del self._state.review_items[item]

    async def remove(self, kind: Kind, ids: Collection[str]) -> set[str]:
        """Remove what is marked, with all that hangs on it."""
        removed = {one for one in ids if self._state.doomed.pop((kind, one), None) is not None}
        state = self._state
        if kind is Kind.RUN:
            for datasets in [key for key in state.run_datasets if key[0] in removed]:
                del state.run_datasets[datasets]
            for trace_id, trace in state.traces.items():
                state.traces[trace_id] = replace(trace, runs=trace.runs - removed)
        for link in [link for link in state.links if removed & {link[0], link[1].model_id}]:
            del state.links[link]
        if kind is Kind.EXPERIMENT:
            for experiment_id in removed:
                self._empty(experiment_id)
        return removed

    async def put_off(self, purges: Sequence[Purge], due_at: Micros, *, is_late: bool) -> None:
        """Note when purges are due next, and whether everything was removed once."""
        for one in purges:
            self._state.purges[one.kind, one.id] = (one._replace(is_late=is_late), due_at)

    async def settle(self, purges: Sequence[Purge]) -> None:
        """Forget purges that are done."""
        for one in purges:
            self._state.purges.pop((one.kind, one.id), None)

    def _all(self, kind: Kind) -> Mapping[str, _Thing]:
        state = self._state
        if kind is Kind.EXPERIMENT:
            return state.experiments
        return state.runs if kind is Kind.RUN else state.models

    def _hide(self, kind: Kind, thing_id: str) -> None:
        state = self._state
        if kind is Kind.EXPERIMENT:
            state.doomed[kind, thing_id] = state.experiments.pop(thing_id)
        elif kind is Kind.RUN:
            state.doomed[kind, thing_id] = state.runs.pop(thing_id)
        else:
            state.doomed[kind, thing_id] = state.models.pop(thing_id)

    def _empty(self, experiment_id: str) -> None:
        state = self._state
        for review, thing in list(state.reviews.items()):
            if thing.experiment_id == experiment_id:
                del state.reviews[review]
                if isinstance(thing, ReviewQueue):
                    for item in [key for key in state.review_items if key[0] == review[1]]:
                        del state.review_items[item]
        for scorer in [key for key in state.scorers if key[0] == experiment_id]:
            del state.scorers[scorer]
        for dataset_id, dataset in state.datasets.items():
            left = tuple(one for one in dataset.experiment_ids if one != experiment_id)
            state.datasets[dataset_id] = replace(dataset, experiment_ids=left)


def _deleted(thing: _Thing) -> Deleted:
    if isinstance(thing, LoggedModel):
        is_active = thing.stage is LifecycleStage.ACTIVE
        return Deleted(
            kind=Kind.MODEL,
            id=thing.model_id,
            experiment_id=thing.experiment_id,
            name=thing.name,
            created_by=thing.created_by,
            deleted_at=None if is_active else thing.updated_at,
        )
    info = thing.info if isinstance(thing, Run) else thing
    return Deleted(
        kind=Kind.RUN if isinstance(thing, Run) else Kind.EXPERIMENT,
        id=thing.info.run_id if isinstance(thing, Run) else thing.experiment_id,
        experiment_id=info.experiment_id,
        name=info.name,
        created_by=info.created_by,
        deleted_at=info.deleted_at,
    )
