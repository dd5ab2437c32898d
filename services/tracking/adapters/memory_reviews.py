"""Questions, queues of traces and issues in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from services.tracking.domain.reviews import ReviewItem, ReviewQueue
from services.tracking.domain.traces.assessment import AssessmentKind
from services.tracking.domain.traces.trace import Trace
from services.tracking.errors import ReviewExists
from services.tracking.review_ports import Place, Reviewed, T

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

    async def by_key(self, kind: type[T], experiment_id: str, key: str) -> T | None:
        """Return the one of a key; None when there is none."""
        found = await self.of(kind, [experiment_id])
        return next((one for one in found if one.key == key), None)

    async def page(
        self, kind: type[T], experiment_id: str, *, after: Place | None, limit: int
    ) -> list[T]:
        """Return the next of an experiment, the newest first, then by id."""
        found = await self.of(kind, [experiment_id])
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
            for one in await self.of(ReviewQueue, [experiment_id])
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

    async def found_in(self, issue_ids: Collection[str]) -> Mapping[str, int]:
        """Return in how many traces issues were found."""
        found: dict[str, int] = {}
        for trace in self._traces.values():
            named = {one.name for one in trace.assessments if one.kind is AssessmentKind.ISSUE}
            for issue_id in named & set(issue_ids):
                found[issue_id] = found.get(issue_id, 0) + 1
        return found


def _is_behind(created_at: int, thing_id: str, after: Place | None) -> bool:
    return after is None or (-created_at, thing_id) > (-after[0], after[1])
