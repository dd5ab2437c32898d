"""Asks the platform for what a page of runs shows, within bounds, many calls at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb2
from tessera.client.aio.client import AsyncClient
from tessera.client.mlflow_door import MlflowDoor
from tessera.pages.run_report import Link, Report, RunView
from tessera.pages.waterfall import Trace, trace_of
from tessera.tracking.v1 import tracking_pb2
from tessera_kit.config import ConfigError
from tessera_kit.errors import InvalidArgument, TesseraError

__all__ = ["MOST_RUNS", "gather", "several"]

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


async def gather(client: AsyncClient, runs: Sequence[tracking_pb2.Run]) -> Report:
    """Return what a page of runs shows.

    What cannot be read beside the runs themselves (lineage, traces) is left out, and the report's
    notes say why.

    Raises:
        InvalidArgument: There is no run, or there are more than `MOST_RUNS`.
        TesseraError: The runs' experiments, metrics or files cannot be read.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise InvalidArgument(f"a page shows 1 to {MOST_RUNS} runs, not {len(runs):,}")
    found = _Gathering(client)
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

    def __init__(self, client: AsyncClient) -> None:
        self.notes: list[str] = []
        self._client = client

    async def experiments(self, ids: set[str]) -> dict[str, str]:
        """The names of experiments by their ids."""
        found = await several(ids, self._client.tracking.get_experiment)
        return {one.experiment_id: one.name for one in found}

    async def curves(self, runs: Sequence[tracking_pb2.Run]) -> dict[tuple[int, str], Buckets]:
        """Metrics of several steps, in so many buckets that all together stay small."""
        wanted = self._wanted(runs)
        buckets = _ALL_BUCKETS // max(len(wanted), 1)
        buckets = min(max(buckets, _LEAST_BUCKETS), _MOST_BUCKETS)

        keys: dict[int, list[str]] = {}
        for place, key in wanted:
            keys.setdefault(place, []).append(key)

        async def ask(place: int) -> dict[tuple[int, str], Buckets]:
            found = await self._client.tracking.downsample_many(
                runs[place].run_id, keys[place], buckets=buckets
            )
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
            for one in await self._client.tracking.list_artifacts(run_id, folders.pop(0)):
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
            edges = await self._client.lineage.get(
                lineage_pb2.LINEAGE_NODE_TYPE_RUN, run.run_id, max_depth=1
            )
        except (TesseraError, ConfigError) as error:
            self.notes.append(f"The catalog's lineage is not shown: {error}.")
            return inputs
        known = {link.name for link in inputs}
        links = [_link(edge, run.run_id) for edge in edges[:_MOST_LINKS]]
        return inputs + [link for link in links if link.name not in known]

    async def traces(self, runs: Sequence[tracking_pb2.Run]) -> list[tuple[int, Trace]]:
        """The newest traces, of one run or of the first runs that have some."""
        door = MlflowDoor(self._client.settings)
        most = _MOST_TRACES if len(runs) == 1 else 1

        async def ask(one: tuple[int, tracking_pb2.Run]) -> list[tuple[int, Trace]]:
            place, run = one
            infos = await asyncio.to_thread(
                door.traces_of_run, run.experiment_id, run.run_id, limit=most
            )
            whole = [await asyncio.to_thread(door.trace, info["trace_id"]) for info in infos]
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
