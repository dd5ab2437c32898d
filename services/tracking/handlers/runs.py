"""Use cases of runs, and of reading what they logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace

from services.tracking.convert.events import run_ended, run_started
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
from services.tracking.handlers.access import Access
from services.tracking.handlers.group_commit import GroupCommit
from services.tracking.ports.store import Store, Work
from services.tracking.ports.transaction import Home, RequestKey, Transaction
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Runs"]

_CREATE = "CreateRun"
_MOST_KNOWN = 100_000
_GROUP = 256


@dataclass(slots=True)
class _Creation:
    """A run that is to be created; once that is done, it has its id.

    And the run itself, unless the request had created it before.
    """

    principal: str
    experiment_id: str
    name: str
    started_at: Micros | None
    tags: Mapping[str, str]
    request_id: str
    context: Context = field(default_factory=copy_context)
    run_id: str = ""
    run: Run | None = None


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
        self._creations = GroupCommit(self._create_all, weight=lambda _: 1, limit=_GROUP)

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
        creation = _Creation(
            principal=principal.name,
            experiment_id=experiment_id,
            name=name or random_run_name(),
            started_at=started_at,
            tags=dict(sorted(tags.items())),
            request_id=request_id,
        )
        await self._creations.submit(creation)
        self._access.remember(creation.run_id, experiment_id)
        return creation.run or await self._existing(creation.run_id)

    async def close(self) -> None:
        """Wait until all that was accepted is stored."""
        await self._creations.close()

    async def _create_all(self, creations: Sequence[_Creation]) -> list[TesseraError | None]:
        """Create runs of concurrent callers in one transaction."""
        return await self._store.transact(lambda work: self._created(work, creations))

    def _created(
        self, work: Transaction, creations: Sequence[_Creation]
    ) -> list[TesseraError | None]:
        homes = work.homes({one.experiment_id for one in creations})
        outcomes: list[TesseraError | None] = []
        runs: list[Run] = []
        for asked in creations:
            try:
                run = self._new_run(work, asked, homes.get(asked.experiment_id))
            except TesseraError as error:
                outcomes.append(error)
                continue
            outcomes.append(None)
            if run is not None:
                asked.run_id = run.info.run_id
                asked.run = run
                runs.append(run)
        work.add_runs(runs)
        return outcomes

    def _new_run(self, work: Transaction, asked: _Creation, home: Home | None) -> Run | None:
        """Return the run to add; None when its request created one before."""
        if home is None:
            raise _no_experiment(asked.experiment_id)
        request = RequestKey(asked.principal, _CREATE, asked.request_id)
        asked.run_id = (work.result_of(request) if asked.request_id else None) or ""
        if asked.run_id:
            return None
        if home.stage is not LifecycleStage.ACTIVE:
            raise ExperimentNotActive(asked.experiment_id)
        run_id = new_id()
        if asked.request_id:
            # Another process may have been faster, a moment ago.
            asked.run_id = work.claim(request, run_id) or ""
            if asked.run_id:
                return None
        now = micros_of(self._clock.now())
        info = RunInfo(
            run_id=run_id,
            experiment_id=asked.experiment_id,
            name=asked.name,
            started_at=now if asked.started_at is None else asked.started_at,
            artifact_location=f"{home.artifact_location}/{run_id}/artifacts",
            created_by=asked.principal,
            etag=new_etag(),
        )
        run = Run(info, tags=asked.tags)
        # In the context of the call, whose trace the event belongs to.
        asked.context.run(lambda: work.publish(run_started(run)))
        return run

    async def get(self, principal: Principal, run_id: str) -> Run:
        """Return a run, deleted or not, with all that was logged to it.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not read it.
        """
        run = await self._existing(run_id)
        await self._access.read(principal, run.info.experiment_id)
        return run

    async def info(self, principal: Principal, run_id: str) -> RunInfo:
        """Return a run's own facts, as `get` does.

        Raises:
            RunNotFound: There is none.
            PermissionDenied: The caller may not read it.
        """
        async with self._store.read() as view:
            run = await view.runs.info(run_id)
        if run is None:
            raise RunNotFound(run_id)
        await self._access.read(principal, run.experiment_id)
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

    async def _existing(self, run_id: str) -> Run:
        async with self._store.read() as view:
            run = await view.runs.get(run_id)
        if run is None:
            raise RunNotFound(run_id)
        return run

    async def _may_create(self, principal: Principal, experiment_id: str) -> None:
        # What was there once need not be asked: the transaction finds out when it has gone.
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
            now = micros_of(self._clock.now())
            moved = move_run(await _locked(work, run_id), stage, now=now, etag=new_etag())
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
