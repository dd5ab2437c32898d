"""Use cases of searching: filters, orders, pages, and only what the caller may see."""

from __future__ import annotations

import hashlib
import json
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
    read_position,
    write_position,
)
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import EXPERIMENTS, RUNS, OrderKey
from services.tracking.handlers.access import Access
from services.tracking.ports import ExperimentQuery, RunQuery, Store
from tessera_kit.errors import FieldViolation
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.pages import InvalidPageToken, decode_page_token, encode_page_token

__all__ = [
    "ExperimentPage",
    "RunPage",
    "Search",
    "foreign_token",
    "position_of_token",
    "scope_of",
    "token_of",
]

# What the contract lets a page token be.
_LONGEST_TOKEN: Final = 2048
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
        query = replace(
            query,
            experiment_ids=readable,
            after=await self._run_position(token, scope, order, readable),
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
        query = replace(query, after=await self._experiment_position(token, scope, order))
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

    async def _run_position(
        self, token: str, scope: str, order: Sequence[OrderKey], readable: Collection[str]
    ) -> Position | None:
        written = decode_page_token(token, scope)
        if not written:
            return None
        if "t" in written:
            return position_of_token(written, order)
        async with self._store.read() as view:
            run = await view.runs.get(str(written["i"]))
        if run is None or run.info.experiment_id not in readable:
            raise foreign_token()
        return _run_place(run, order)

    async def _experiment_position(
        self, token: str, scope: str, order: Sequence[OrderKey]
    ) -> Position | None:
        written = decode_page_token(token, scope)
        if not written:
            return None
        if "t" in written:
            return position_of_token(written, order)
        async with self._store.read() as view:
            experiment = await view.experiments.get(str(written["i"]))
        if experiment is None:
            raise foreign_token()
        return _experiment_place(experiment, order)


def _weight(run: Run) -> int:
    texts = sum(len(key) + len(value) for key, value in (*run.params.items(), *run.tags.items()))
    return texts + 40 * (len(run.metrics) + len(run.inputs))


def scope_of(*parts: object) -> str:
    """Return what a page token is good for: the search that these parts make up."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def token_of(position: Position, scope: str) -> str:
    """Return the token of the page that starts behind a position."""
    token = encode_page_token(write_position(position), scope)
    if len(token) <= _LONGEST_TOKEN:
        return token
    # Texts that were ordered by are too long to carry: the next call reads them again.
    return encode_page_token({"i": position.id}, scope)


def position_of_token(written: dict[str, str | int], order: Sequence[OrderKey]) -> Position:
    """Return the position that a token's content says.

    Raises:
        InvalidPageToken: It does not.
    """
    try:
        return read_position(written, order)
    except ValueError:
        raise foreign_token() from None


def foreign_token() -> InvalidPageToken:
    """Return the error of a token that no listing of ours made."""
    rule = "is not a token of this listing; start again from the first page"
    return InvalidPageToken(f"page_token {rule}", violations=[FieldViolation("page_token", rule)])


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
