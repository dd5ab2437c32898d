"""What tracking needs to keep questions, queues of traces and issues."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeAlias, TypeVar

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.reviews import (
    Issue,
    IssuePlace,
    LabelSchema,
    ReviewItem,
    ReviewQueue,
)
from services.tracking.domain.search.syntax import Filter

__all__ = ["Place", "ReviewStore", "Reviewed"]

Place: TypeAlias = tuple[Micros, str]
"""Where a page of a listing ended: the creation and the id of its last one."""
Reviewed: TypeAlias = LabelSchema | ReviewQueue | Issue
T = TypeVar("T", LabelSchema, ReviewQueue, Issue)


class ReviewStore(Protocol):
    """Questions, queues with their items, and issues, each known by its kind and id."""

    async def get(self, kind: type[T], thing_id: str) -> T | None:
        """Return one; None when there is none."""

    async def homes_of_issues(self) -> set[str]:
        """Return the experiments that have issues."""

    async def issues(
        self,
        experiment_ids: Collection[str],
        conditions: Filter,
        *,
        counted: bool,
        after: IssuePlace | None,
        limit: int,
    ) -> list[Issue]:
        """Return the next issues of experiments, by their places, the greatest first.

        Args:
            experiment_ids: Of which experiments.
            conditions: What `domain.search.syntax.ISSUES` lets ask; all must hold.
            counted: Whether in how many traces each was found is told, and counts for its place.
            after: Where the page before ended; None for the first page.
            limit: The most to return.
        """

    async def by_key(self, kind: type[T], experiment_id: str, key: str) -> T | None:
        """Return the one of a key, which is unique in the experiment; None when there is none."""

    async def page(
        self, kind: type[T], experiment_id: str, *, after: Place | None, limit: int
    ) -> list[T]:
        """Return the next of an experiment, the newest first, then by id.

        Args:
            kind: Of what.
            experiment_id: Of which experiment.
            after: Where the page before ended; None for the first page.
            limit: The most to return.
        """

    async def queues(
        self,
        experiment_id: str,
        *,
        user: str | None,
        item_id: str | None,
        after: Place | None,
        limit: int,
    ) -> list[ReviewQueue]:
        """As `page`, of queues: of a user, that hold an item, or all where they are None."""

    async def put(self, thing: Reviewed) -> None:
        """Store a new one, or the new state of one; its experiment must exist.

        Raises:
            ReviewExists: Its experiment has another one of that kind and key.
        """

    async def delete(self, kind: type[Reviewed], thing_id: str) -> None:
        """Forget one, a queue with its items; one that is not there is ignored."""

    async def items(
        self, queue_id: str, *, status: str | None = None, after: Place | None = None, limit: int
    ) -> list[ReviewItem]:
        """Return the next items of a queue, the newest first, then by id.

        Args:
            queue_id: Of which queue.
            status: Of this status alone; of all when None.
            after: Where the page before ended; None for the first page.
            limit: The most to return.
        """

    async def items_of(self, queue_id: str, item_ids: Collection[str]) -> dict[str, ReviewItem]:
        """Return those of the items that a queue holds, by their ids."""

    async def put_items(self, items: Sequence[ReviewItem]) -> None:
        """Store items of queues that exist, new or again."""

    async def delete_items(self, queue_id: str, item_ids: Collection[str]) -> None:
        """Forget items; those that are not there are ignored."""

    async def forget_items(self, item_ids: Collection[str]) -> None:
        """Forget items in whatever queue, as their traces are gone."""
