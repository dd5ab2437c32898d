"""What is done many times a second needs of the outside: runs begin, and log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.tracking.domain.batch import Batch, Known, News
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.points import Points
from services.tracking.domain.run import Run
from tessera_kit.bus.event import Event

__all__ = ["Home", "RequestKey", "Transaction"]


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Identifies one request for a creation, so that sending it again creates nothing."""

    principal: str
    method: str
    request_id: str


class Home(NamedTuple):
    """What a new run takes from its experiment."""

    stage: LifecycleStage
    """Whether the experiment takes runs."""
    artifact_location: str
    """URL under which its artifacts are kept."""


class Transaction(Protocol):
    """The transaction of what is done many times a second: runs begin, and log.

    Locks are taken in one order for all callers, so that no two of them wait for each other.
    """

    def homes(self, experiment_ids: Collection[str]) -> dict[str, Home]:
        """Return the experiments that there are; until the end nobody changes them."""

    def result_of(self, request: RequestKey) -> str | None:
        """Return the id of what a request created; None when it created nothing yet."""

    def claim(self, request: RequestKey, resource_id: str) -> str | None:
        """As `Work.claim`."""

    def add_runs(self, runs: Sequence[Run]) -> None:
        """Store new runs, which have tags at most; their experiments must exist. Locks them."""

    def lock(self, run_ids: Collection[str]) -> dict[str, LifecycleStage]:
        """Return the stages of the runs that there are; until the end nobody else locks them."""

    def known(self, batches: Sequence[Batch]) -> dict[str, Known]:
        """Return, by run, what locked runs have of what batches name.

        Every run that is locked and named has an entry.
        """

    def log(self, news: Mapping[str, Sequence[News]], etags: Mapping[str, str]) -> None:
        """Store what is new to locked runs, by run id; a later tag replaces an earlier one.

        Args:
            news: What is new.
            etags: The new etags of runs.
        """

    def add_points(self, points: Mapping[str, Points]) -> None:
        """Store points of locked runs, by run id, and note what is new of each metric with the run.

        A point that is there already changes nothing, so adding is idempotent.
        """

    def publish(self, event: Event) -> None:
        """Tell an event when, and only when, the transaction is stored."""
