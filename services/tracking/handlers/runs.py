"""Use cases of runs, and of reading what they logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.tracking.domain.lifecycle import LifecycleStage, Micros, micros_of
from services.tracking.domain.metrics import Point
from services.tracking.domain.naming import random_run_name
from services.tracking.domain.run import (
    Run,
    RunChange,
    RunInfo,
    change_run,
    check_run_name,
    move_run,
)
from services.tracking.errors import (
    ExperimentNotActive,
    ExperimentNotFound,
    RunNotActive,
    RunNotFound,
    TagNotFound,
)
from services.tracking.events import run_ended, run_started
from services.tracking.handlers.access import Access
from services.tracking.ports import RequestKey, Store, Work
from tessera_kit.clock import Clock
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Runs"]

_CREATE = "CreateRun"
_MOST_KNOWN = 100_000


class Runs:
    """Creates, reads, changes, deletes and restores runs.

    Args:
        store: Where they are kept.
        access: Who may do what.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._known_experiments: set[str] = set()

    async def create(
        self,
        principal: Principal,
        *,
        experiment_id: str,
        name: str = "",
        started_at: Micros | None = None,
        tags: Mapping[str, str],
        request_id: str = "",
    ) -> Run:
        """Create a run that is under way, and tell RunStarted.

        Raises:
            ExperimentNotFound: There is no such experiment.
            PermissionDenied: The caller may not write to it.
            ExperimentNotActive: It was deleted.
            InvalidValue: The name breaks the rules.
        """
        check_run_name(name)
        await self._may_create(principal, experiment_id)
        request = RequestKey(principal.name, _CREATE, request_id)
        async with self._store.write() as work:
            experiment = await work.experiments.lock(experiment_id, shared=True)
            if experiment is None:
                raise _no_experiment(experiment_id)
            run_id = new_id()
            known = await work.claim(request, run_id) if request_id else None
            before = None if known is None else await work.runs.get(known)
            if before is not None:
                return before
            if experiment.stage is not LifecycleStage.ACTIVE:
                raise ExperimentNotActive(experiment_id)
            info = RunInfo(
                run_id=run_id,
                experiment_id=experiment_id,
                name=name or random_run_name(),
                started_at=micros_of(self._clock.now()) if started_at is None else started_at,
                artifact_location=f"{experiment.artifact_location}/{run_id}/artifacts",
                created_by=principal.name,
                etag=new_etag(),
            )
            run = Run(info, tags=dict(sorted(tags.items())))
            await work.runs.add(info, run.tags)
            work.publish(run_started(run))
            await work.commit()
        return run

    async def get(self, principal: Principal, run_id: str) -> Run:
        """Return a run, deleted or not, with all that was logged to it.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not read it.
        """
        await self._access.read_run(principal, run_id)
        async with self._store.read() as view:
            run = await view.runs.get(run_id)
        if run is None:
            raise RunNotFound(run_id)
        return run

    async def info(self, principal: Principal, run_id: str) -> RunInfo:
        """Return a run's own facts, as `get` does.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not read it.
        """
        await self._access.read_run(principal, run_id)
        async with self._store.read() as view:
            run = await view.runs.info(run_id)
        if run is None:
            raise RunNotFound(run_id)
        return run

    async def update(self, principal: Principal, run_id: str, change: RunChange) -> Run:
        """Change a run's name, status or end; tell RunEnded when it reaches a final status.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not write it.
            StaleEtag: Somebody else was faster.
            RunNotActive: It was deleted.
            InvalidUpdate, InvalidValue: The change makes no sense.
        """
        await self._access.write_run(principal, run_id)
        async with self._store.write() as work:
            current = await _locked(work, run_id)
            changed = change_run(current, change, now=micros_of(self._clock.now()), etag=new_etag())
            await work.runs.put(changed)
            run = await work.runs.get(run_id)
            if run is None:
                raise RunNotFound(run_id)
            if changed.status.is_final and changed.status is not current.status:
                work.publish(run_ended(run))
            await work.commit()
        return run

    async def delete(self, principal: Principal, run_id: str) -> None:
        """Mark a run as deleted.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not delete it.
            RunNotActive: It is deleted already.
        """
        await self._move(principal, run_id, LifecycleStage.DELETED)

    async def restore(self, principal: Principal, run_id: str) -> None:
        """Bring a deleted run back.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not restore it.
            RunNotActive: It is not deleted.
            ExperimentNotActive: Its experiment is deleted.
        """
        await self._move(principal, run_id, LifecycleStage.ACTIVE)

    async def remove_tag(self, principal: Principal, run_id: str, key: str) -> None:
        """Remove a tag of a run.

        Raises:
            RunNotFound, TagNotFound: There is no such thing.
            PermissionDenied: The caller may not write it.
            RunNotActive: It was deleted.
        """
        await self._access.write_run(principal, run_id)
        async with self._store.write() as work:
            run = await _locked(work, run_id)
            if run.stage is not LifecycleStage.ACTIVE:
                raise RunNotActive(run_id)
            if not await work.runs.remove_tag(run_id, key):
                raise TagNotFound(key, "run", run_id)
            await work.runs.put(replace(run, etag=new_etag()))
            await work.commit()

    async def history(
        self, principal: Principal, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """Return at most `limit` points of a metric by step, time and value, behind `after`.

        Raises:
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read it.
        """
        await self._access.read_run(principal, run_id)
        async with self._store.read() as view:
            return await view.metrics.history(run_id, key, after=after, limit=limit)

    async def _may_create(self, principal: Principal, experiment_id: str) -> None:
        # Experiments are marked as deleted but never vanish: what was there once need not be asked.
        if experiment_id not in self._known_experiments:
            async with self._store.read() as view:
                if await view.experiments.get(experiment_id) is None:
                    raise _no_experiment(experiment_id)
            if len(self._known_experiments) >= _MOST_KNOWN:
                self._known_experiments.clear()
            self._known_experiments.add(experiment_id)
        await self._access.write(principal, experiment_id)

    async def _move(self, principal: Principal, run_id: str, stage: LifecycleStage) -> None:
        async with self._store.read() as view:
            run = await view.runs.info(run_id)
        if run is None:
            raise RunNotFound(run_id)
        await self._access.manage_run(principal, run)
        async with self._store.write() as work:
            experiment = await work.experiments.lock(run.experiment_id, shared=True)
            if experiment is None or experiment.stage is not LifecycleStage.ACTIVE:
                raise ExperimentNotActive(run.experiment_id)
            moved = move_run(await _locked(work, run_id), stage, etag=new_etag())
            await work.runs.put(moved)
            await work.commit()


async def _locked(work: Work, run_id: str) -> RunInfo:
    found = await work.runs.lock([run_id])
    if run_id not in found:
        raise RunNotFound(run_id)
    return found[run_id]


def _no_experiment(experiment_id: str) -> ExperimentNotFound:
    return ExperimentNotFound(
        f"No Experiment with id={experiment_id} exists", metadata={"experiment_id": experiment_id}
    )
