"""Questions, queues of traces and issues in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from services.tracking.domain.reviews import ReviewItem, ReviewQueue
from services.tracking.domain.traces.assessment import AssessmentKind
from services.tracking.domain.traces.trace import Trace
from services.tracking.errors import ReviewExists
from services.tracking.review_ports import Reviewed, T

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

    async def of(self, kind: type[T], experiment_ids: Collection[str] | None) -> list[T]:
        """Return all of experiments, or of all, the newest first, then by id."""
        found = [
            one
            for one in self._things.values()
            if isinstance(one, kind)
            and (experiment_ids is None or one.experiment_id in experiment_ids)
        ]
        return sorted(found, key=lambda one: (-one.created_at, one.id))

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
            await self.delete_items(thing_id, [one.item_id for one in await self.items(thing_id)])

    async def items(self, queue_id: str) -> list[ReviewItem]:
        """Return the items of a queue, the newest first, then by id."""
        found = [one for one in self._items.values() if one.queue_id == queue_id]
        return sorted(found, key=lambda one: (-one.created_at, one.item_id))

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

    async def queues_with(self, item_id: str) -> set[str]:
        """Return the ids of the queues that hold an item."""
        return {one.queue_id for one in self._items.values() if one.item_id == item_id}

    async def found_in(self, issue_ids: Collection[str]) -> Mapping[str, int]:
        """Return in how many traces issues were found."""
        found: dict[str, int] = {}
        for trace in self._traces.values():
            named = {one.name for one in trace.assessments if one.kind is AssessmentKind.ISSUE}
            for issue_id in named & set(issue_ids):
                found[issue_id] = found.get(issue_id, 0) + 1
        return found
