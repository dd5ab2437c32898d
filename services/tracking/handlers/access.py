"""Who may do what with experiments and what is in them.

Experiments are securables, and runs inherit from theirs: SELECT reads, MODIFY writes, MANAGE (or to
own the experiment) deletes and restores. Whoever created a run may delete it with MODIFY alone. The
default experiment is open: every authenticated principal may read and write it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from services.tracking.domain.experiment import DEFAULT_EXPERIMENT_ID
from services.tracking.domain.retention import Deleted
from services.tracking.domain.run import RunInfo
from services.tracking.errors import RunNotFound
from services.tracking.ports.store import Store
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import NotFound, PermissionDenied
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["Access"]

_EXPERIMENT: Final = securable_pb2.SECURABLE_TYPE_EXPERIMENT
_METASTORE: Final = securable_pb2.SECURABLE_TYPE_METASTORE
_AT_ONCE: Final = 64
_MOST_RUNS: Final = 100_000


class Access:
    """Decides by the catalog's grants.

    Args:
        authority: Who holds which privilege.
        store: Tells which experiment a run belongs to.
    """

    def __init__(self, authority: Authority, store: Store) -> None:
        self._authority = authority
        self._store = store
        self._experiments: dict[str, str] = {}

    async def create(self, principal: Principal) -> None:
        """Return when the principal may create experiments.

        Raises:
            PermissionDenied: CREATE_EXPERIMENT on the metastore is missing.
        """
        await self._authority.require(
            principal, securable_pb2.PRIVILEGE_CREATE_EXPERIMENT, _METASTORE, "metastore"
        )

    async def manage_all(self, principal: Principal) -> None:
        """Return when the principal may manage what hears of everything.

        Raises:
            PermissionDenied: MANAGE on the metastore is missing.
        """
        await self._authority.require(
            principal, securable_pb2.PRIVILEGE_MANAGE, _METASTORE, "metastore"
        )

    async def read(self, principal: Principal, experiment_id: str) -> None:
        """Return when the principal may read the experiment and its runs.

        Raises:
            PermissionDenied: SELECT on it is missing.
        """
        if experiment_id != DEFAULT_EXPERIMENT_ID:
            await self._require(principal, securable_pb2.PRIVILEGE_SELECT, experiment_id)

    async def write(self, principal: Principal, experiment_id: str) -> None:
        """Return when the principal may change the experiment and write its runs.

        Raises:
            PermissionDenied: MODIFY on it is missing.
        """
        if experiment_id != DEFAULT_EXPERIMENT_ID:
            await self._require(principal, securable_pb2.PRIVILEGE_MODIFY, experiment_id)

    async def manage(self, principal: Principal, experiment_id: str) -> None:
        """Return when the principal may delete and restore the experiment.

        Raises:
            PermissionDenied: MANAGE on it is missing.
        """
        await self._require(principal, securable_pb2.PRIVILEGE_MANAGE, experiment_id)

    async def manage_run(self, principal: Principal, run: RunInfo | Deleted) -> None:
        """Return when the principal may delete and restore the run, or remove it for good.

        Raises:
            PermissionDenied: MANAGE on its experiment is missing, and the principal did not create
                the run or lacks MODIFY.
        """
        if run.created_by == principal.name:
            await self.write(principal, run.experiment_id)
        else:
            await self.manage(principal, run.experiment_id)

    async def read_run(self, principal: Principal, run_id: str) -> None:
        """As `read`, for a run's experiment; the run is there now.

        Raises:
            RunNotFound: No run has this id.
            PermissionDenied: SELECT on its experiment is missing.
        """
        # Points may outlive their run for a while, and nobody may see them then.
        await self.read(principal, await self._found_experiment_of(run_id))

    async def write_run(self, principal: Principal, run_id: str) -> None:
        """As `write`, for a run's experiment.

        Raises:
            RunNotFound: No run has this id.
            PermissionDenied: MODIFY on its experiment is missing.
        """
        await self.write(principal, await self._experiment_of(run_id))

    async def readable(self, principal: Principal, experiment_ids: Collection[str]) -> set[str]:
        """Return those of the experiments that the principal may read."""
        readable: set[str] = set()
        for some in _parts(sorted(set(experiment_ids)), _AT_ONCE):
            answers = await asyncio.gather(*(self._may_read(principal, one) for one in some))
            readable.update(one for one, may in zip(some, answers, strict=True) if may)
        return readable

    def remember(self, run_id: str, experiment_id: str) -> None:
        """Note the experiment of a run that was just created, so that nobody need look."""
        if len(self._experiments) >= _MOST_RUNS:
            self._experiments.clear()
        self._experiments[run_id] = experiment_id

    def forget(self, run_ids: Collection[str]) -> None:
        """Note that runs are not there any more."""
        for run_id in run_ids:
            self._experiments.pop(run_id, None)

    async def register(self, experiment_id: str, owner: str) -> None:
        """Make the experiment known to the catalog, with its owner."""
        await self._authority.register(_EXPERIMENT, experiment_id, owner)

    async def unregister(self, experiment_id: str) -> None:
        """Make the catalog forget the experiment."""
        await self._authority.unregister(_EXPERIMENT, experiment_id)

    async def _may_read(self, principal: Principal, experiment_id: str) -> bool:
        try:
            await self.read(principal, experiment_id)
        except (PermissionDenied, NotFound):
            return False
        return True

    async def _require(self, principal: Principal, privilege: int, experiment_id: str) -> None:
        await self._authority.require(principal, privilege, _EXPERIMENT, experiment_id)

    async def _experiment_of(self, run_id: str) -> str:
        # A run never changes its experiment, so what was read once stays true.
        # Whether it is still there, whoever writes finds out.
        return self._experiments.get(run_id) or await self._found_experiment_of(run_id)

    async def _found_experiment_of(self, run_id: str) -> str:
        async with self._store.read() as view:
            run = await view.runs.info(run_id)
        if run is None:
            raise RunNotFound(run_id)
        self.remember(run_id, run.experiment_id)
        return run.experiment_id


def _parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
