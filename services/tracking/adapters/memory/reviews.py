"""Questions, queues of traces and issues in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from services.tracking.domain.reviews import Issue, IssuePlace, ReviewItem, ReviewQueue
from services.tracking.domain.search.evaluate import matches
from services.tracking.domain.search.model_fields import issue_values
from services.tracking.domain.search.syntax import Filter
from services.tracking.domain.traces.assessment import AssessmentKind
from services.tracking.domain.traces.trace import Trace
from services.tracking.errors import ReviewExists
from services.tracking.ports.reviews import Place, Reviewed, T

__all__ = ["InMemoryReviews"]


class InMemoryReviews:
    """The store over dictionaries of a transaction's state."""

    def __init__(
        self,
        things: dict[tuple[type[Reviewed], str], Reviewed],
        items: dict[tuple[str, str], ReviewItem],
        traces: dict[str, Trace],
    ) -> None:
        self._things = things
        self._items = items
        self._traces = traces

    async def get(self, kind: type[T], thing_id: str) -> T | None:
        """Return one; None when there is none."""
        found = self._things.get((kind, thing_id))
        return found if isinstance(found, kind) else None

    async def homes_of_issues(self) -> set[str]:
        """Return the experiments that have issues."""
        return {one.experiment_id for one in self._things.values() if isinstance(one, Issue)}

    async def issues(
        self,
        experiment_ids: Collection[str],
        conditions: Filter,
        *,
        counted: bool,
        after: IssuePlace | None,
        limit: int,
    ) -> list[Issue]:
        """Return the next issues of experiments, by their places, the greatest first."""
        found = [
            replace(one, trace_count=self._found_in(one.id)) if counted else one
            for one in self._things.values()
            if isinstance(one, Issue)
            and one.experiment_id in experiment_ids
            and matches(issue_values(one), conditions)
        ]
        behind = [one for one in found if after is None or one.place < after]
        return sorted(behind, key=lambda one: one.place, reverse=True)[:limit]

    async def by_key(self, kind: type[T], experiment_id: str, key: str) -> T | None:
        """Return the one of a key; None when there is none."""
        found = self._of(kind, experiment_id)
        return next((one for one in found if one.key == key), None)

    async def page(
        self, kind: type[T], experiment_id: str, *, after: Place | None, limit: int
    ) -> list[T]:
        """Return the next of an experiment, the newest first, then by id."""
        found = self._of(kind, experiment_id)
        return [one for one in found if _is_behind(one.created_at, one.id, after)][:limit]

    async def queues(
        self,
        experiment_id: str,
        *,
        user: str | None,
        item_id: str | None,
        after: Place | None,
        limit: int,
    ) -> list[ReviewQueue]:
        """Return the next queues of a user, that hold an item, or all."""
        holders = {queue_id for queue_id, held in self._items if held == item_id}
        return [
            one
            for one in self._of(ReviewQueue, experiment_id)
            if _is_behind(one.created_at, one.id, after)
            and (user is None or user in one.users)
            and (item_id is None or one.id in holders)
        ][:limit]

    async def put(self, thing: Reviewed) -> None:
        """Store a new one, or the new state of one."""
        for other in self._things.values():
            same = type(other) is type(thing) and other.experiment_id == thing.experiment_id
            if same and other.key == thing.key and other.id != thing.id:
                raise ReviewExists(f"'{thing.name}' is taken in the experiment")
        self._things[type(thing), thing.id] = thing

    async def delete(self, kind: type[Reviewed], thing_id: str) -> None:
        """Forget one, a queue with its items."""
        self._things.pop((kind, thing_id), None)
        if kind is ReviewQueue:
            for key in [key for key in self._items if key[0] == thing_id]:
                del self._items[key]

    async def items(
        self, queue_id: str, *, status: str | None = None, after: Place | None = None, limit: int
    ) -> list[ReviewItem]:
        """Return the next items of a queue, the newest first, then by id."""
        found = [
            one
            for one in self._items.values()
            if one.queue_id == queue_id
            and status in {None, one.status}
            and _is_behind(one.created_at, one.item_id, after)
        ]
        return sorted(found, key=lambda one: (-one.created_at, one.item_id))[:limit]

    async def items_of(self, queue_id: str, item_ids: Collection[str]) -> dict[str, ReviewItem]:
        """Return those of the items that a queue holds."""
        return {
            one: self._items[queue_id, one] for one in item_ids if (queue_id, one) in self._items
        }

    async def put_items(self, items: Sequence[ReviewItem]) -> None:
        """Store items, new or again."""
        self._items.update({(one.queue_id, one.item_id): one for one in items})

    async def delete_items(self, queue_id: str, item_ids: Collection[str]) -> None:
        """Forget items."""
        for item_id in item_ids:
            self._items.pop((queue_id, item_id), None)

    async def forget_items(self, item_ids: Collection[str]) -> None:
        """Forget items in whatever queue."""
        for key in [key for key in self._items if key[1] in item_ids]:
            del self._items[key]

    def _of(self, kind: type[T], experiment_id: str) -> list[T]:
        found = [
            one
            for one in self._things.values()
            if isinstance(one, kind) and one.experiment_id == experiment_id
        ]
        return sorted(found, key=lambda one: (-one.created_at, one.id))

    def _found_in(self, issue_id: str) -> int:
        named = [
            any(
                one.kind is AssessmentKind.ISSUE and one.name == issue_id
                for one in trace.assessments
            )
            for trace in self._traces.values()
        ]
        return sum(named)


def _is_behind(created_at: int, thing_id: str, after: Place | None) -> bool:
    return after is None or (-created_at, thing_id) > (-after[0], after[1])
