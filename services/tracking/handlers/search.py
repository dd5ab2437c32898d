"""Use cases of searching: filters, orders, pages, and only what the caller may see."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.run import DatasetUse, Run
from services.tracking.domain.search.evaluate import experiment_values, run_values
from services.tracking.domain.search.paging import (
    Position,
    position_after,
)
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import EXPERIMENTS, RUNS, OrderKey
from services.tracking.handlers.access import Access
from services.tracking.handlers.page_tokens import position_at, scope_of, token_of
from services.tracking.ports.store import ExperimentQuery, RunQuery, Store
from tessera_kit.rpc.identity import Principal

__all__ = [
    "ExperimentPage",
    "RunPage",
    "Search",
]

# How often a search for experiments looks on when the caller may see little of what it finds.
_ROUNDS: Final = 10
# A message holds 64 MiB; texts take up to 4 bytes per character.
_PAGE_BYTES: Final = 8 << 20
_MOST_DATASETS: Final = 1000


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs."""

    runs: list[Run]
    next_token: str
    """Where the next page starts; empty on the last page."""


@dataclass(frozen=True, slots=True)
class ExperimentPage:
    """A page of experiments."""

    experiments: list[Experiment]
    next_token: str
    """Where the next page starts; empty on the last page."""


class Search:
    """Searches runs and experiments.

    Args:
        store: Where they are kept.
        access: Who may see what.
    """

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    async def runs(
        self,
        principal: Principal,
        *,
        experiment_ids: Collection[str],
        text: str,
        order_by: Sequence[str],
        stage: LifecycleStage | None,
        size: int,
        token: str,
    ) -> RunPage:
        """Return a page of the runs that match; experiments that the caller may not read have none.

        A page ends early where its runs hold more than 8 MiB of text.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
            InvalidPageToken: The token was not made by this search.
        """
        order = parse_order_by(order_by, RUNS)
        query = RunQuery(
            experiment_ids=experiment_ids,
            filter=parse_filter(text, RUNS),
            order=order,
            stage=stage,
            limit=size + 1,
        )
        scope = scope_of("runs", sorted(experiment_ids), text, list(order_by), stage)
        readable = await self._access.readable(principal, experiment_ids)

        async def place_of(run_id: str) -> Position | None:
            async with self._store.read() as view:
                run = await view.runs.get(run_id)
            if run is None or run.info.experiment_id not in readable:
                return None
            return _run_place(run, order)

        query = replace(
            query,
            experiment_ids=readable,
            after=await position_at(token, scope, order, place_of),
        )
        page, more = await self._run_page(query, size)
        return RunPage(page, token_of(_run_place(page[-1], order), scope) if more else "")

    async def experiments(
        self,
        principal: Principal,
        *,
        text: str,
        order_by: Sequence[str],
        stage: LifecycleStage | None,
        size: int,
        token: str,
    ) -> ExperimentPage:
        """Return a page of the experiments that match and that the caller may read.

        A page may be short although more follow, where the caller may read few of many.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
            InvalidPageToken: The token was not made by this search.
        """
        order = parse_order_by(order_by, EXPERIMENTS)
        query = ExperimentQuery(
            filter=parse_filter(text, EXPERIMENTS), order=order, stage=stage, limit=size + 1
        )
        scope = scope_of("experiments", text, list(order_by), stage)

        async def place_of(experiment_id: str) -> Position | None:
            async with self._store.read() as view:
                experiment = await view.experiments.get(experiment_id)
            return None if experiment is None else _experiment_place(experiment, order)

        query = replace(query, after=await position_at(token, scope, order, place_of))
        visible: list[Experiment] = []
        for _ in range(_ROUNDS):
            async with self._store.read() as view:
                found = await view.experiments.find(query)
            readable = await self._access.readable(principal, [one.experiment_id for one in found])
            visible += [one for one in found if one.experiment_id in readable]
            if len(visible) > size:
                page = visible[:size]
                return ExperimentPage(page, token_of(_experiment_place(page[-1], order), scope))
            if len(found) < query.limit:
                return ExperimentPage(visible, "")
            query = replace(query, after=_experiment_place(found[-1], order))
        return ExperimentPage(visible, token_of(_experiment_place(found[-1], order), scope))

    async def datasets(
        self, principal: Principal, experiment_ids: Collection[str]
    ) -> list[DatasetUse]:
        """Return the data sets that runs of experiments used: at most 1,000, each once, in order.

        Experiments that the caller may not read have none.
        """
        readable = await self._access.readable(principal, experiment_ids)
        async with self._store.read() as view:
            return await view.runs.datasets(readable, limit=_MOST_DATASETS)

    async def _run_page(self, query: RunQuery, size: int) -> tuple[list[Run], bool]:
        """Return up to `size` runs and whether more follow."""
        page: list[Run] = []
        weight = 0
        async with self._store.read() as view, aclosing(view.runs.find(query)) as found:
            async for run in found:
                weight += _weight(run)
                if len(page) == size or (page and weight > _PAGE_BYTES):
                    return page, True
                page.append(run)
        return page, False


def _weight(run: Run) -> int:
    texts = sum(len(key) + len(value) for key, value in (*run.params.items(), *run.tags.items()))
    return texts + 40 * (len(run.metrics) + len(run.inputs))


def _run_place(run: Run, order: Sequence[OrderKey]) -> Position:
    info = run.info
    return position_after(run_values(run), order, time=info.started_at, identifier=info.run_id)


def _experiment_place(experiment: Experiment, order: Sequence[OrderKey]) -> Position:
    return position_after(
        experiment_values(experiment),
        order,
        time=experiment.created_at,
        identifier=experiment.experiment_id,
    )
