"""Use cases of experiments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from services.tracking.domain.experiment import (
    DEFAULT_EXPERIMENT_ID,
    DEFAULT_EXPERIMENT_NAME,
    Experiment,
    ExperimentChange,
    change_experiment,
    check_experiment_tags,
    move_experiment,
)
from services.tracking.domain.keys import check_experiment_name
from services.tracking.domain.lifecycle import LifecycleStage, micros_of
from services.tracking.errors import ExperimentNameTaken, ExperimentNotFound
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store, View
from services.tracking.ports.transaction import RequestKey
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Experiments"]

_log = logging.getLogger(__name__)
_CREATE = "CreateExperiment"
# The service's own principal.
_OWNER_OF_DEFAULT = "tracking"


class Experiments:
    """Creates, reads, changes, deletes and restores experiments.

    Args:
        store: Where they are kept.
        access: Who may do what.
        clock: Where time comes from.
        artifact_root: URL below which artifacts are kept, without a slash at its end.
    """

    def __init__(self, store: Store, access: Access, clock: Clock, *, artifact_root: str) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._artifact_root = artifact_root

    async def create(
        self, principal: Principal, *, name: str, tags: Mapping[str, str], request_id: str
    ) -> Experiment:
        """Create an experiment that the caller owns.

        Raises:
            PermissionDenied: The caller may not create experiments.
            ExperimentNameTaken: Another one has its name.
            InvalidKey, InvalidValue: The name or a tag breaks the rules.
        """
        await self._access.create(principal)
        check_experiment_name(name)
        check_experiment_tags(tags)
        request = RequestKey(principal.name, _CREATE, request_id)
        async with self._store.read() as view:
            before = await self._created_before(view, request)
            if before is not None:
                return before
            if await view.experiments.by_name(name) is not None:
                raise ExperimentNameTaken(name)
        experiment = self._new(new_id(), name, tags, principal.name)
        # Known to the catalog first: an experiment that nobody may use would be worse than a
        # securable that nobody needs, should this process end in between.
        await self._access.register(experiment.experiment_id, principal.name)
        try:
            stored = await self._add(experiment, request)
        except ExperimentNameTaken:
            await self._access.unregister(experiment.experiment_id)
            raise
        if stored.experiment_id != experiment.experiment_id:
            await self._access.unregister(experiment.experiment_id)
        return stored

    async def get(
        self, principal: Principal, *, experiment_id: str = "", name: str = ""
    ) -> Experiment:
        """Return the experiment with this id, or else with this name.

        Raises:
            ExperimentNotFound: There is none.
            PermissionDenied: The caller may not read it.
        """
        async with self._store.read() as view:
            if experiment_id:
                found = await view.experiments.get(experiment_id)
            else:
                found = await view.experiments.by_name(name)
        if found is None:
            raise _not_found(experiment_id, name)
        await self._access.read(principal, found.experiment_id)
        return found

    async def update(
        self, principal: Principal, experiment_id: str, change: ExperimentChange
    ) -> Experiment:
        """Change an experiment's name or tags.

        Raises:
            ExperimentNotFound: There is none.
            PermissionDenied: The caller may not change it.
            StaleEtag: Somebody else was faster.
            ExperimentNotActive, ExperimentNameTaken, DefaultExperimentKept: Its state forbids it.
            InvalidUpdate, InvalidKey, InvalidValue: The change makes no sense.
        """
        await self._must_exist(experiment_id)
        await self._access.write(principal, experiment_id)
        async with self._store.write() as work:
            current = await work.experiments.lock(experiment_id)
            if current is None:
                raise _not_found(experiment_id)
            changed = change_experiment(
                current, change, now=micros_of(self._clock.now()), etag=new_etag()
            )
            await work.experiments.put(changed)
            await work.commit()
        return changed

    async def delete(self, principal: Principal, experiment_id: str) -> None:
        """Mark an experiment and its runs as deleted.

        Raises:
            ExperimentNotFound: There is none.
            PermissionDenied: The caller may not delete it.
            ExperimentNotActive: It is deleted already.
            DefaultExperimentKept: It is the default one.
        """
        await self._move(principal, experiment_id, LifecycleStage.DELETED)

    async def restore(self, principal: Principal, experiment_id: str) -> None:
        """Bring a deleted experiment back, with the runs that were deleted along with it.

        Raises:
            ExperimentNotFound: There is none.
            PermissionDenied: The caller may not restore it.
            ExperimentNotActive: It is not deleted.
        """
        await self._move(principal, experiment_id, LifecycleStage.ACTIVE)

    async def ensure_default(self) -> None:
        """Create the default experiment when it is missing; call it before serving."""
        async with self._store.write() as work:
            if await work.experiments.get(DEFAULT_EXPERIMENT_ID) is not None:
                return
            experiment = self._new(
                DEFAULT_EXPERIMENT_ID, DEFAULT_EXPERIMENT_NAME, {}, _OWNER_OF_DEFAULT
            )
            await work.experiments.add(experiment)
            await work.commit()
            _log.info("created the default experiment")

    async def register_default(self) -> None:
        """Make the default experiment known to the catalog, as soon as that answers."""
        retry = RetryPolicy(initial_seconds=0.2, maximum_seconds=10.0, budget_seconds=None)
        failures = 0
        while True:
            try:
                await self._access.register(DEFAULT_EXPERIMENT_ID, _OWNER_OF_DEFAULT)
                return
            except TesseraError as error:
                failures += 1
                delay = retry.delay(failures, 0.0) or 0.0
                _log.info("default experiment: registering again in %.1f s: %s", delay, error)
                await asyncio.sleep(delay)

    async def _move(self, principal: Principal, experiment_id: str, stage: LifecycleStage) -> None:
        await self._must_exist(experiment_id)
        await self._access.manage(principal, experiment_id)
        async with self._store.write() as work:
            current = await work.experiments.lock(experiment_id)
            if current is None:
                raise _not_found(experiment_id)
            now = micros_of(self._clock.now())
            moved = move_experiment(current, stage, now=now, etag=new_etag())
            await work.experiments.put(moved)
            await work.runs.move_all(experiment_id, stage, at=now)
            await work.commit()

    async def _add(self, experiment: Experiment, request: RequestKey) -> Experiment:
        async with self._store.write() as work:
            if request.request_id:
                known = await work.claim(request, experiment.experiment_id)
                if known is not None:
                    before = await work.experiments.get(known)
                    return experiment if before is None else before
            await work.experiments.add(experiment)
            await work.commit()
        return experiment

    async def _created_before(self, view: View, request: RequestKey) -> Experiment | None:
        if not request.request_id:
            return None
        known = await view.result_of(request)
        return None if known is None else await view.experiments.get(known)

    async def _must_exist(self, experiment_id: str) -> None:
        async with self._store.read() as view:
            if await view.experiments.get(experiment_id) is None:
                raise _not_found(experiment_id)

    def _new(
        self, experiment_id: str, name: str, tags: Mapping[str, str], creator: str
    ) -> Experiment:
        now = micros_of(self._clock.now())
        return Experiment(
            experiment_id=experiment_id,
            name=name,
            artifact_location=f"{self._artifact_root}/{experiment_id}",
            tags=dict(sorted(tags.items())),
            created_by=creator,
            created_at=now,
            updated_at=now,
            etag=new_etag(),
        )


def _not_found(experiment_id: str, name: str = "") -> ExperimentNotFound:
    if experiment_id:
        return ExperimentNotFound(
            f"No Experiment with id={experiment_id} exists",
            metadata={"experiment_id": experiment_id},
        )
    return ExperimentNotFound(
        f"Could not find experiment with name '{name}'", metadata={"name": name}
    )
