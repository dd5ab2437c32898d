"""Use case of retention: what was deleted is removed for good when it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.tracking.domain.lifecycle import Micros, micros_of
from services.tracking.domain.retention import Deleted, Kind
from services.tracking.errors import (
    DeletedTooRecently,
    ExperimentNotFound,
    LoggedModelNotFound,
    NotDeleted,
    RunNotFound,
    StoreBusy,
)
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.rpc.identity import Principal

__all__ = ["Purging", "Retention"]

_AT_ONCE: Final = 1000
_AT_ALL: Final = timedelta()


@dataclass(frozen=True, slots=True)
class Purging:
    """What is removed for good, or would be."""

    things: Sequence[Deleted]
    """Experiments, then runs, then models, each by when they were deleted."""
    has_more: bool
    """Whether there was more than was looked at."""
    under_way: int
    """How many purges have not removed everything yet."""


class Retention:
    """Marks what is to be removed for good; a `Purger` removes it.

    Args:
        store: Where it is kept.
        access: Who may do what.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self.marked = asyncio.Event()
        """Set when something was marked in this process."""

    async def purge(
        self,
        principal: Principal,
        named: Mapping[Kind, Collection[str]],
        *,
        older_than: timedelta = _AT_ALL,
        dry_run: bool = False,
    ) -> Purging:
        """Remove for good what is named, all of it or nothing; or, where nothing is named, all.

        Args:
            principal: Who asks.
            named: Ids of what to remove.
            older_than: For how long it must have been deleted.
            dry_run: Whether only to tell what would be removed.

        Raises:
            ExperimentNotFound, RunNotFound, LoggedModelNotFound: There is no such thing (any more).
            PermissionDenied: The caller may not delete it, or, where nothing is named, does not
                manage the metastore.
            NotDeleted, DeletedTooRecently: It is in use, or was not deleted for long enough.
        """
        by = micros_of(self._clock.now() - older_than)
        has_more = False
        if any(named.values()):
            things = await self._named(principal, named, by, older_than)
        else:
            await self._access.manage_all(principal)
            things, has_more = await self._all(by)
        if not dry_run:
            things = await self.mark(things, by, whole=any(named.values()))
        async with self._store.read() as view:
            return Purging(things, has_more, await view.purges.under_way())

    async def mark_older(self, age: timedelta, *, limit: int) -> int:
        """Mark what was deleted for so long, `limit` of each kind at most; return how many."""
        by = micros_of(self._clock.now() - age)
        found: list[Deleted] = []
        async with self._store.read() as view:
            for kind in Kind:
                found += await view.purges.deleted(kind, by=by, limit=limit)
        return len(await self.mark(found, by)) if found else 0

    async def mark(
        self, things: Sequence[Deleted], by: Micros, *, whole: bool = False
    ) -> list[Deleted]:
        """Mark what was deleted by a time; return what was marked.

        Raises:
            StoreBusy: `whole`, and not all of it could be: somebody else was faster.
        """
        now = micros_of(self._clock.now())
        marked: set[tuple[Kind, str]] = set()
        async with self._store.write() as work:
            # Experiments first, as whoever restores runs locks them.
            for kind in Kind:
                ids = [one.id for one in things if one.kind is kind]
                if ids:
                    taken = await work.purges.mark(kind, ids, by=by, at=now)
                    marked.update((kind, one) for one in taken)
            if whole and len(marked) < len(things):
                raise StoreBusy("what was named changed meanwhile; try again", retry_after=0.1)
            await work.commit()
        self._access.forget([thing_id for kind, thing_id in marked if kind is Kind.RUN])
        self.marked.set()
        return [one for one in things if (one.kind, one.id) in marked]

    async def _all(self, by: Micros) -> tuple[list[Deleted], bool]:
        things: list[Deleted] = []
        has_more = False
        async with self._store.read() as view:
            for kind in Kind:
                found = await view.purges.deleted(kind, by=by, limit=_AT_ONCE + 1)
                has_more = has_more or len(found) > _AT_ONCE
                things += found[:_AT_ONCE]
        homes = {one.id for one in things if one.kind is Kind.EXPERIMENT}
        return [one for one in things if _is_apart(one, homes)], has_more

    async def _named(
        self,
        principal: Principal,
        named: Mapping[Kind, Collection[str]],
        by: Micros,
        older_than: timedelta,
    ) -> list[Deleted]:
        things: list[Deleted] = []
        async with self._store.read() as view:
            for kind in Kind:
                wanted = dict.fromkeys(named.get(kind, ()))
                found = await view.purges.known(kind, wanted)
                for thing_id in wanted:
                    if thing_id not in found:
                        raise _missing(kind, thing_id)
                things += found.values()
        for one in things:
            if one.kind is Kind.EXPERIMENT:
                await self._access.manage(principal, one.id)
            else:
                await self._access.manage_run(principal, one)
        for one in things:
            if one.deleted_at is None:
                raise NotDeleted(one.kind, one.id)
            if one.deleted_at > by:
                raise DeletedTooRecently(one.kind, one.id, older_than)
        homes = {one.id for one in things if one.kind is Kind.EXPERIMENT}
        apart = [one for one in things if _is_apart(one, homes)]
        order = list(Kind)
        return sorted(apart, key=lambda one: (order.index(one.kind), one.deleted_at or 0, one.id))


def _is_apart(one: Deleted, homes: Collection[str]) -> bool:
    """Whether something goes by itself, not with an experiment."""
    return one.kind is Kind.EXPERIMENT or one.experiment_id not in homes


def _missing(kind: Kind, thing_id: str) -> TesseraError:
    if kind is Kind.EXPERIMENT:
        return ExperimentNotFound(
            f"No Experiment with id={thing_id[:300]} exists",
            metadata={"experiment_id": thing_id[:300]},
        )
    return RunNotFound(thing_id) if kind is Kind.RUN else LoggedModelNotFound(thing_id)
