"""What questions about traces, queues of traces and issues share: they belong to experiments."""

from __future__ import annotations

from typing import Final, TypeVar

from services.tracking.domain.lifecycle import LifecycleStage, Micros, micros_of
from services.tracking.domain.reviews import Issue, LabelSchema, ReviewQueue
from services.tracking.errors import ExperimentNotActive, ExperimentNotFound, ReviewNotFound
from services.tracking.handlers.access import Access
from services.tracking.ports.reviews import Reviewed
from services.tracking.ports.store import Store
from tessera_kit.clock import Clock
from tessera_kit.rpc.identity import Principal

__all__ = ["ReviewDesk"]

T = TypeVar("T", LabelSchema, ReviewQueue, Issue)
_WORDS: Final[dict[type[Reviewed], str]] = {
    LabelSchema: "label schema",
    ReviewQueue: "review queue",
    Issue: "issue",
}


class ReviewDesk:
    """Reads and stores them; an experiment's grants hold for all that belongs to it.

    Every method raises, for what it is given:
        ExperimentNotFound, ReviewNotFound: It is not there.
        ExperimentNotActive: The experiment was deleted and takes nothing new.
        PermissionDenied: The caller may not read, or write, the experiment.
        ReviewExists: The experiment has another one of that kind and name.

    Args:
        store: Where they are kept.
        access: Who may do what with experiments.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self.store = store
        self.access = access
        self._clock = clock

    async def get(self, principal: Principal, kind: type[T], thing_id: str) -> T:
        """Return a question, a queue or an issue."""
        async with self.store.read() as view:
            found = await view.reviews.get(kind, thing_id)
        if found is None:
            raise _missing(kind, thing_id)
        await self.access.read(principal, found.experiment_id)
        return found

    def now(self) -> Micros:
        """Return the time."""
        return micros_of(self._clock.now())

    async def add(self, principal: Principal, thing: Reviewed) -> None:
        """Store a new thing of an active experiment that the caller may write."""
        await self.must_exist(thing.experiment_id)
        await self.access.write(principal, thing.experiment_id)
        async with self.store.write() as work:
            experiment = await work.experiments.lock(thing.experiment_id)
            if experiment is None or experiment.stage is not LifecycleStage.ACTIVE:
                raise ExperimentNotActive(thing.experiment_id)
            await work.reviews.put(thing)
            await work.commit()

    async def put(self, thing: Reviewed) -> None:
        """Store the new state of a thing."""
        async with self.store.write() as work:
            await work.reviews.put(thing)
            await work.commit()

    async def writable(self, principal: Principal, kind: type[T], thing_id: str) -> T:
        """As `get`, for callers who are going to change it."""
        async with self.store.read() as view:
            found = await view.reviews.get(kind, thing_id)
        if found is None:
            raise _missing(kind, thing_id)
        await self.access.write(principal, found.experiment_id)
        return found

    async def by_key(self, principal: Principal, kind: type[T], experiment_id: str, key: str) -> T:
        """Return the one of a key, which is unique in the experiment."""
        await self.readable(principal, experiment_id)
        async with self.store.read() as view:
            found = await view.reviews.by_key(kind, experiment_id, key)
        if found is None:
            raise _missing(kind, key)
        return found

    async def readable(self, principal: Principal, experiment_id: str) -> None:
        """Return when the caller may read an experiment."""
        await self.must_exist(experiment_id)
        await self.access.read(principal, experiment_id)

    async def must_exist(self, experiment_id: str) -> None:
        """Return when there is such an experiment."""
        async with self.store.read() as view:
            if await view.experiments.get(experiment_id) is None:
                raise ExperimentNotFound(
                    f"No Experiment with id={experiment_id[:300]} exists",
                    metadata={"experiment_id": experiment_id[:300]},
                )


def _missing(kind: type[Reviewed], which: str) -> ReviewNotFound:
    return ReviewNotFound(f"there is no {_WORDS[kind]} '{which[:300]}'")
