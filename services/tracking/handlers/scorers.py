"""Use cases of scorers: versions of what judges the traces of an experiment."""

from __future__ import annotations

from collections.abc import Collection

from services.tracking.domain.evaluation import ScorerVersion, check_scorer
from services.tracking.domain.lifecycle import LifecycleStage, micros_of
from services.tracking.errors import ExperimentNotActive, ExperimentNotFound, ScorerNotFound
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store
from tessera_kit.clock import Clock
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Scorers"]


class Scorers:
    """Registers, reads and deletes scorers.

    Args:
        store: Where they are kept.
        access: Who may do what with experiments.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    async def register(
        self, principal: Principal, experiment_id: str, name: str, serialized: str
    ) -> ScorerVersion:
        """Store the next version of a scorer.

        Raises:
            ExperimentNotFound, ExperimentNotActive: The experiment cannot take it.
            PermissionDenied: The caller may not write the experiment.
            InvalidValue: The name or the content breaks the rules.
        """
        check_scorer(name, serialized)
        await self._must_exist(experiment_id)
        await self._access.write(principal, experiment_id)
        async with self._store.write() as work:
            experiment = await work.experiments.lock(experiment_id)
            if experiment is None or experiment.stage is not LifecycleStage.ACTIVE:
                raise ExperimentNotActive(experiment_id)
            known = await work.scorers.of([experiment_id], name)
            made = ScorerVersion(
                experiment_id=experiment_id,
                name=name,
                version=1 + max((one.version for one in known), default=0),
                scorer_id=known[0].scorer_id if known else new_id(),
                serialized=serialized,
                created_at=micros_of(self._clock.now()),
            )
            await work.scorers.add(made)
            await work.commit()
        return made

    async def latest(
        self, principal: Principal, experiment_ids: Collection[str]
    ) -> list[ScorerVersion]:
        """Return the newest version of each scorer of the experiments that the caller may read.

        Raises:
            ExperimentNotFound: The only experiment that is asked for does not exist.
            PermissionDenied: The caller may not read it.
        """
        if len(experiment_ids) == 1:
            (only,) = experiment_ids
            await self._must_exist(only)
            await self._access.read(principal, only)
        readable = await self._access.readable(principal, experiment_ids)
        async with self._store.read() as view:
            versions = await view.scorers.of(sorted(readable), None)
        newest = {(one.experiment_id, one.name): one for one in versions}
        return list(newest.values())

    async def versions(
        self, principal: Principal, experiment_id: str, name: str
    ) -> list[ScorerVersion]:
        """Return all versions of a scorer, the oldest first.

        Raises:
            ScorerNotFound, ExperimentNotFound: There is none.
            PermissionDenied: The caller may not read the experiment.
        """
        await self._must_exist(experiment_id)
        await self._access.read(principal, experiment_id)
        async with self._store.read() as view:
            found = await view.scorers.of([experiment_id], name)
        if not found:
            raise _not_found(experiment_id, name, None)
        return found

    async def get(
        self, principal: Principal, experiment_id: str, name: str, version: int | None
    ) -> ScorerVersion:
        """Return a version of a scorer; the newest one for None.

        Raises:
            ScorerNotFound, ExperimentNotFound: There is none.
            PermissionDenied: The caller may not read the experiment.
        """
        found = await self.versions(principal, experiment_id, name)
        if version is None:
            return found[-1]
        for one in found:
            if one.version == version:
                return one
        raise _not_found(experiment_id, name, version)

    async def delete(
        self, principal: Principal, experiment_id: str, name: str, version: int | None
    ) -> None:
        """Delete a version of a scorer; all of them for None.

        Raises:
            ScorerNotFound, ExperimentNotFound: There is none.
            PermissionDenied: The caller may not write the experiment.
        """
        await self._must_exist(experiment_id)
        await self._access.write(principal, experiment_id)
        async with self._store.write() as work:
            if not await work.scorers.delete(experiment_id, name, version):
                raise _not_found(experiment_id, name, version)
            await work.commit()

    async def _must_exist(self, experiment_id: str) -> None:
        async with self._store.read() as view:
            if await view.experiments.get(experiment_id) is None:
                raise ExperimentNotFound(
                    f"No Experiment with id={experiment_id[:300]} exists",
                    metadata={"experiment_id": experiment_id[:300]},
                )


def _not_found(experiment_id: str, name: str, version: int | None) -> ScorerNotFound:
    which = "" if version is None else f" and version {version}"
    return ScorerNotFound(
        f"Scorer with name '{name[:300]}'{which} not found for experiment {experiment_id}.",
        metadata={"name": name[:300], "experiment_id": experiment_id},
    )
