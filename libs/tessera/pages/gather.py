"""Asks for what a page of runs shows, within bounds, many calls at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb2
from tessera.pages.run_report import Link, Report, RunView
from tessera.pages.waterfall import Trace, trace_of
from tessera.tracking.v1 import tracking_pb2
from tessera_kit.config import ConfigError
from tessera_kit.errors import InvalidArgument, TesseraError

__all__ = ["MOST_RUNS", "Buckets", "Source", "gather", "several"]

Value = TypeVar("Value")
Result = TypeVar("Result")
Buckets = Sequence[tracking_pb2.MetricBucket]

MOST_RUNS: Final = 200
"""More runs than these are no page that a person reads."""
_MOST_CURVES: Final = 2_000
_ALL_BUCKETS: Final = 200_000
"""How many buckets all curves have together, which bounds the page to a few megabytes."""
_MOST_BUCKETS, _LEAST_BUCKETS = 600, 60
_MOST_FILES: Final = 500
_MOST_FOLDERS: Final = 50
_MOST_TRACES: Final = 10
_MOST_LINKS: Final = 100


class Source(Protocol):
    """Where a page's facts come from, with the rights of who looks at it.

    Every method raises TesseraError for what is not there, may not be read or does not answer.
    """

    async def experiment_name(self, experiment_id: str) -> str:
        """Return an experiment's name."""

    async def curves(self, run_id: str, keys: Sequence[str], buckets: int) -> Mapping[str, Buckets]:
        """Return metrics of a run in at most so many buckets each."""

    async def artifacts(self, run_id: str, path: str) -> Sequence[tracking_pb2.ArtifactInfo]:
        """Return files and folders directly below a path of a run's artifacts."""

    async def lineage(self, run_id: str) -> Sequence[lineage_pb2.LineageEdge]:
        """Return the steps from and to a run."""

    async def traces(
        self, experiment_id: str, run_id: str, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return the newest traces of a run with their spans, as MLflow's `Trace` in JSON."""


async def gather(source: Source, runs: Sequence[tracking_pb2.Run]) -> Report:
    """Return what a page of runs shows.

    What cannot be read beside the runs themselves (lineage, traces) is left out, and the report's
    notes say why.

    Raises:
        InvalidArgument: There is no run, or there are more than `MOST_RUNS`.
        TesseraError: The runs' experiments, metrics or files cannot be read.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise InvalidArgument(f"a page shows 1 to {MOST_RUNS} runs, not {len(runs):,}")
    found = _Gathering(source)
    names = await found.experiments({run.experiment_id for run in runs})
    curves = await found.curves(runs)
    views = await several(runs, lambda run: found.view(run, names[run.experiment_id]))
    traces = await found.traces(runs)
    return Report(
        runs=views,
        curves=curves,
        traces=traces,
        notes=list(dict.fromkeys(found.notes)),
        made_at=datetime.now(UTC),
    )


async def several(
    items: Iterable[Value], ask: Callable[[Value], Awaitable[Result]], at_once: int = 16
) -> list[Result]:
    """Ask for each of many, a bounded number at a time; the first failure ends the others."""
    slots = asyncio.Semaphore(at_once)

    async def one(item: Value) -> Result:
        async with slots:
            return await ask(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Gathering:
    """The calls of one page, and notes of what they left out."""

    def __init__(self, source: Source) -> None:
        self.notes: list[str] = []
        self._source = source

    async def experiments(self, ids: set[str]) -> dict[str, str]:
        """The names of experiments by their ids."""
        known = sorted(ids)
        return dict(zip(known, await several(known, self._source.experiment_name), strict=True))

    async def curves(self, runs: Sequence[tracking_pb2.Run]) -> dict[tuple[int, str], Buckets]:
        """Metrics of several steps, in so many buckets that all together stay small."""
        wanted = self._wanted(runs)
        buckets = _ALL_BUCKETS // max(len(wanted), 1)
        buckets = min(max(buckets, _LEAST_BUCKETS), _MOST_BUCKETS)

        keys: dict[int, list[str]] = {}
        for place, key in wanted:
            keys.setdefault(place, []).append(key)

        async def ask(place: int) -> dict[tuple[int, str], Buckets]:
            found = await self._source.curves(runs[place].run_id, keys[place], buckets)
            return {(place, key): curve for key, curve in found.items()}

        answers = await several(keys, ask, at_once=4)
        return {which: curve for answer in answers for which, curve in answer.items()}

    def _wanted(self, runs: Sequence[tracking_pb2.Run]) -> list[tuple[int, str]]:
        """The place of a run and the name of a metric for each curve, whole metrics only."""
        places: dict[str, list[int]] = {}
        for place, run in enumerate(runs):
            for metric in run.metrics:
                # Points of one step make no curve, and step 0 is where those without steps are.
                if metric.step:
                    places.setdefault(metric.key, []).append(place)
        wanted: list[tuple[int, str]] = []
        left = 0
        for key in sorted(places, key=lambda key: (key.startswith("system/"), key)):
            if len(wanted) + len(places[key]) > _MOST_CURVES:
                left += 1
                continue
            wanted += [(place, key) for place in places[key]]
        if left:
            self.notes.append(f"{left:,} more metrics are in the table without their curves.")
        return wanted

    async def view(self, run: tracking_pb2.Run, experiment: str) -> RunView:
        """A run with its files and its lineage."""
        files, more = await self._files(run.run_id)
        return RunView(
            run=run,
            experiment=experiment,
            artifacts=files,
            more_artifacts=more,
            links=await self._links(run),
        )

    async def _files(self, run_id: str) -> tuple[list[tracking_pb2.ArtifactInfo], bool]:
        files: list[tracking_pb2.ArtifactInfo] = []
        folders, asked = [""], 0
        while folders and asked < _MOST_FOLDERS and len(files) <= _MOST_FILES:
            asked += 1
            for one in await self._source.artifacts(run_id, folders.pop(0)):
                if one.is_directory:
                    folders.append(one.path)
                else:
                    files.append(one)
        more = bool(folders) or len(files) > _MOST_FILES
        return sorted(files, key=lambda one: one.path)[:_MOST_FILES], more

    async def _links(self, run: tracking_pb2.Run) -> list[Link]:
        inputs = [
            Link("from", one.context or "data set", one.name, one.digest) for one in run.inputs
        ]
        try:
            edges = await self._source.lineage(run.run_id)
        except (TesseraError, ConfigError) as error:
            self.notes.append(f"The catalog's lineage is not shown: {error}.")
            return inputs
        known = {link.name for link in inputs}
        links = [_link(edge, run.run_id) for edge in edges[:_MOST_LINKS]]
        return inputs + [link for link in links if link.name not in known]

    async def traces(self, runs: Sequence[tracking_pb2.Run]) -> list[tuple[int, Trace]]:
        """The newest traces, of one run or of the first runs that have some."""
        most = _MOST_TRACES if len(runs) == 1 else 1

        async def ask(one: tuple[int, tracking_pb2.Run]) -> list[tuple[int, Trace]]:
            place, run = one
            whole = await self._source.traces(run.experiment_id, run.run_id, most)
            return [(place, trace_of(message)) for message in whole]

        try:
            found = await several(list(enumerate(runs))[:_MOST_TRACES], ask)
        except (TesseraError, ConfigError) as error:
            self.notes.append(f"Traces are not shown: {error}.")
            return []
        return [trace for several in found for trace in several]


def _link(edge: lineage_pb2.LineageEdge, run_id: str) -> Link:
    made = edge.source.type == lineage_pb2.LINEAGE_NODE_TYPE_RUN and edge.source.name == run_id
    node = edge.target if made else edge.source
    kind = lineage_pb2.LineageNodeType.Name(node.type).removeprefix("LINEAGE_NODE_TYPE_")
    return Link("to" if made else "from", kind.lower().replace("_", " "), node.name)
