"""The hot paths' transaction in memory: the twin of `adapters.sql.transaction`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from services.tracking.domain.batch import Batch, Known, News
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.metrics import Extremes, Point, identity, latest_points
from services.tracking.domain.points import Points
from services.tracking.domain.run import Run
from services.tracking.ports.transaction import Home, RequestKey
from tessera_kit.bus.event import Event

__all__ = ["InMemoryTransaction", "PointSets", "merge_points"]

PointSets = dict[tuple[str, str], frozenset[Point]]
"""Points by run id and metric."""


class InMemoryTransaction:
    """A `Transaction` on dictionaries, which it changes.

    Args:
        experiments: Experiments by id.
        runs: Runs by id.
        points: The points.
        requests: What requests created.
    """

    def __init__(
        self,
        experiments: Mapping[str, Experiment],
        runs: dict[str, Run],
        points: PointSets,
        requests: dict[RequestKey, str],
    ) -> None:
        self._experiments = experiments
        self._runs = runs
        self._points = points
        self._requests = requests
        self.events: list[Event] = []
        """What it told."""

    def homes(self, experiment_ids: Collection[str]) -> dict[str, Home]:
        """Return where runs of experiments are kept."""
        found = {one: self._experiments[one] for one in experiment_ids if one in self._experiments}
        return {key: Home(one.stage, one.artifact_location) for key, one in found.items()}

    def result_of(self, request: RequestKey) -> str | None:
        """Return the id of what a request created."""
        return self._requests.get(request)

    def claim(self, request: RequestKey, resource_id: str) -> str | None:
        """Note that a request creates a resource."""
        known = self._requests.setdefault(request, resource_id)
        return None if known == resource_id else known

    def add_runs(self, runs: Sequence[Run]) -> None:
        """Store new runs."""
        self._runs.update((run.info.run_id, replace(run, tags=_sorted(run.tags))) for run in runs)

    def lock(self, run_ids: Collection[str]) -> dict[str, LifecycleStage]:
        """Return the stages of the runs that there are."""
        return {one: self._runs[one].info.stage for one in run_ids if one in self._runs}

    def known(self, batches: Sequence[Batch]) -> dict[str, Known]:
        """Return what runs have."""
        runs = {batch.run_id: self._runs[batch.run_id] for batch in batches}
        return {
            run_id: Known(dict(run.params), dict(run.tags), set(run.inputs))
            for run_id, run in runs.items()
        }

    def log(self, news: Mapping[str, Sequence[News]], etags: Mapping[str, str]) -> None:
        """Store what is new to runs."""
        for run_id, entries in news.items():
            for entry in entries:
                run = self._runs[run_id]
                self._runs[run_id] = replace(
                    run,
                    params=_sorted({**run.params, **entry.params}),
                    tags=_sorted({**run.tags, **entry.tags}),
                    inputs=tuple(sorted({*run.inputs, *entry.inputs})),
                )
        for run_id, etag in etags.items():
            run = self._runs[run_id]
            self._runs[run_id] = replace(run, info=replace(run.info, etag=etag))

    def add_points(self, points: Mapping[str, Points]) -> None:
        """Store points and note what is new of each metric."""
        merge_points(self._points, points)
        for run_id, added in points.items():
            run = self._runs[run_id]
            latest = latest_points([*run.metrics.values(), *added])
            self._runs[run_id] = replace(
                run,
                metrics=dict(sorted(latest.items())),
                extremes={
                    key: ends
                    for key in sorted(latest)
                    if (ends := _ends(self._points[run_id, key]))
                },
            )

    def publish(self, event: Event) -> None:
        """Tell an event."""
        self.events.append(event)


def merge_points(sets: PointSets, points: Mapping[str, Points]) -> None:
    """Add points of runs to those that are there."""
    for run_id, added in points.items():
        by_key: dict[str, list[Point]] = {}
        for point in added:
            by_key.setdefault(point.key, []).append(point)
        for key, those in by_key.items():
            at = (run_id, key)
            # One NaN per step and time, as NaN differs from itself.
            known = {identity(one): one for one in sets.get(at, ())}
            known.update((identity(one), one) for one in those)
            sets[at] = frozenset(known.values())


def _ends(points: Iterable[Point]) -> Extremes | None:
    values = [point.value for point in points if not math.isnan(point.value)]
    return Extremes(min(values), max(values)) if values else None


def _sorted(pairs: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(pairs.items()))
