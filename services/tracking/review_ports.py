"""What tracking needs to keep questions, queues of traces and issues."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

from services.tracking.domain.reviews import Issue, LabelSchema, ReviewItem, ReviewQueue

__all__ = ["ReviewStore", "Reviewed"]

Reviewed: TypeAlias = LabelSchema | ReviewQueue | Issue
T = TypeVar("T", LabelSchema, ReviewQueue, Issue)


class ReviewStore(Protocol):
    """Questions, queues with their items, and issues, each known by its kind and id."""

    async def get(self, kind: type[T], thing_id: str) -> T | None:
        """Return one; None when there is none."""

    async def of(self, kind: type[T], experiment_ids: Collection[str] | None) -> list[T]:
        """Return all of experiments, or of all, the newest first, then by id."""

    async def put(self, thing: Reviewed) -> None:
        """Store a new one, or the new state of one; its experiment must exist.

        Raises:
            ReviewExists: Its experiment has another one of that kind and key.
        """

    async def delete(self, kind: type[Reviewed], thing_id: str) -> None:
        """Forget one, a queue with its items; one that is not there is ignored."""

    async def items(self, queue_id: str) -> list[ReviewItem]:
        """Return the items of a queue, the newest first, then by id."""

    async def put_items(self, items: Sequence[ReviewItem]) -> None:
        """Store items of queues that exist, new or again."""

    async def delete_items(self, queue_id: str, item_ids: Collection[str]) -> None:
        """Forget items; those that are not there are ignored."""

    async def forget_items(self, item_ids: Collection[str]) -> None:
        """Forget items in whatever queue, as their traces are gone."""

    async def queues_with(self, item_id: str) -> set[str]:
        """Return the ids of the queues that hold an item."""

    async def found_in(self, issue_ids: Collection[str]) -> Mapping[str, int]:
        """Return in how many traces issues were found; those in none are left out."""
