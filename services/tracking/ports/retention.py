"""What tracking needs to remove for good what was deleted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.retention import Deleted, Kind, Purge

__all__ = ["PurgeStore"]


class PurgeStore(Protocol):
    """What was deleted, and purges: notes of what is being removed for good.

    What is marked is gone for everybody from then on: no other store finds it, nothing brings it
    back and nothing more is written to it. Its rows stay until `remove`, and its note until what it
    kept elsewhere is removed too, so that a process that dies in between is followed by another.
    """

    async def deleted(self, kind: Kind, *, by: Micros, limit: int) -> list[Deleted]:
        """Return what was deleted by a time, the earliest first.

        Runs that were deleted along with their experiment are not among them: they go with it.
        """

    async def known(self, kind: Kind, ids: Collection[str]) -> dict[str, Deleted]:
        """Return what there is of ids, deleted or not; what is marked is not there any more."""

    async def mark(self, kind: Kind, ids: Collection[str], *, by: Micros, at: Micros) -> set[str]:
        """Mark what was deleted by a time, an experiment with all that is in it.

        Args:
            kind: What they are.
            ids: Which.
            by: When they were deleted at the latest.
            at: The time.

        Returns:
            Those that were marked; the others are in use, gone, or were deleted later.
        """

    async def waiting(self, now: Micros, *, limit: int) -> list[Purge]:
        """Return purges that are due, the earliest first."""

    async def under_way(self) -> int:
        """Return how many purges have not removed everything once."""

    async def inside(self, kind: Kind, experiment_id: str, *, limit: int) -> list[str]:
        """Return ids of marked runs or models of an experiment."""

    async def traces_inside(self, experiment_id: str, *, limit: int) -> list[str]:
        """Return ids of traces of a marked experiment."""

    async def remove_traces(self, trace_ids: Collection[str]) -> None:
        """Remove traces of marked experiments, with all that is said of them."""

    async def remove(self, kind: Kind, ids: Collection[str]) -> set[str]:
        """Remove the rows of what is marked, with all that hangs on them; return whose there were.

        An experiment's runs, models and traces are to be removed before.
        """

    async def put_off(self, purges: Sequence[Purge], due_at: Micros, *, is_late: bool) -> None:
        """Note when purges are due next, and whether everything was removed once."""

    async def settle(self, purges: Sequence[Purge]) -> None:
        """Forget purges that are done."""
