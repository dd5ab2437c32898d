"""Use cases of review queues: traces that some people are to look at."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.tracking.domain.reviews import (
    QUEUE_TYPES,
    STATUSES,
    LabelSchema,
    ReviewItem,
    ReviewQueue,
    check_items,
    check_queue_name,
    checked_schema_ids,
    checked_users,
)
from services.tracking.errors import InvalidValue, ReviewExists, ReviewNotFound, TraceNotFound
from services.tracking.handlers.review_desk import ReviewDesk
from services.tracking.ports.reviews import Place
from tessera_kit.rpc.identity import Principal

__all__ = ["ReviewQueues"]

_USER, _CUSTOM = QUEUE_TYPES
_PENDING: Final = STATUSES[0]


class ReviewQueues:
    """Keeps queues, and what became of the traces in them.

    Every method raises what `ReviewDesk` does, and InvalidValue where a field breaks the rules.

    Args:
        desk: Reads and stores them.
    """

    def __init__(self, desk: ReviewDesk) -> None:
        self._desk = desk

    async def create_queue(
        self,
        principal: Principal,
        experiment_id: str,
        *,
        name: str,
        kind: str,
        users: Sequence[str] = (),
        schema_ids: Sequence[str] = (),
    ) -> ReviewQueue:
        """Store a queue, which its creator owns.

        Raises:
            ReviewExists: The experiment has one of that name, in whatever case.
            ExperimentNotActive: The experiment was deleted.
        """
        assigned, asked = checked_users(users), checked_schema_ids(schema_ids)
        owner = principal.name
        if kind == _USER:
            [name] = checked_users([name])
            owner = name
            if assigned not in {(), (name,)} or asked:
                text = "a user's queue has that user and all of the experiment's questions"
                raise InvalidValue(text, "users")
            assigned = (name,)
        elif kind == _CUSTOM:
            name = check_queue_name(name)
        else:
            raise InvalidValue(f"`queue_type` must be {_USER} or {_CUSTOM}", "queue_type")
        now = self._desk.now()
        made = ReviewQueue(
            id=f"rq-{uuid.uuid4().hex}",
            experiment_id=experiment_id,
            name=name,
            type=kind,
            users=assigned,
            schema_ids=asked,
            created_by=owner,
            created_at=now,
            updated_at=now,
        )
        await self._questions_exist(principal, experiment_id, asked)
        await self._desk.add(principal, made)
        return made

    async def user_queue(self, principal: Principal, experiment_id: str, user: str) -> ReviewQueue:
        """Return a user's own queue; it is made when there is none.

        Raises:
            ReviewExists: A queue of several people has the user's name.
        """
        try:
            return await self.create_queue(principal, experiment_id, name=user, kind=_USER)
        except ReviewExists:
            found = await self.queue_by_name(principal, experiment_id, user.strip())
            if found.type != _USER:
                raise
            return found

    async def queue_by_name(
        self, principal: Principal, experiment_id: str, name: str
    ) -> ReviewQueue:
        """Return the queue of a name, in whatever case."""
        return await self._desk.by_key(principal, ReviewQueue, experiment_id, name.lower())

    async def queues(
        self,
        principal: Principal,
        experiment_id: str,
        *,
        user: str | None,
        item_id: str | None,
        after: Place | None,
        limit: int,
    ) -> list[ReviewQueue]:
        """Return the next of an experiment's queues, the newest first.

        Args:
            principal: Who asks.
            experiment_id: Of which experiment.
            user: Queues of this user alone; of all when None.
            item_id: Queues that hold this trace; all when None.
            after: Where the page before ended; None for the first page.
            limit: The most to return.
        """
        await self._desk.readable(principal, experiment_id)
        async with self._desk.store.read() as view:
            return await view.reviews.queues(
                experiment_id,
                user=None if user is None else user.strip().lower(),
                item_id=item_id,
                after=after,
                limit=limit,
            )

    async def update_queue(
        self,
        principal: Principal,
        queue_id: str,
        *,
        name: str | None,
        owner: str | None,
        users: Sequence[str] | None,
        schema_ids: Sequence[str] | None,
    ) -> ReviewQueue:
        """Change what is not None; questions only while the queue is empty.

        Raises:
            ReviewExists: The experiment has another one of that name.
        """
        was = await self._desk.writable(principal, ReviewQueue, queue_id)
        if was.type == _USER:
            raise InvalidValue("a user's own queue does not change", "queue_id")
        asked = None if schema_ids is None else checked_schema_ids(schema_ids)
        if asked is not None:
            await self._questions_exist(principal, was.experiment_id, asked)
        changed = replace(
            was,
            name=was.name if name is None else check_queue_name(name),
            created_by=was.created_by if owner is None else _owner(owner),
            users=was.users if users is None else checked_users(users),
            schema_ids=was.schema_ids if asked is None else asked,
            updated_at=self._desk.now(),
        )
        async with self._desk.store.write() as work:
            if asked is not None and await work.reviews.items(queue_id, limit=1):
                text = "the questions of a queue do not change while it holds items"
                raise InvalidValue(text, "schema_ids")
            await work.reviews.put(changed)
            await work.commit()
        return changed

    async def delete_queue(self, principal: Principal, queue_id: str) -> None:
        """Delete a queue; assessments of its traces stay. One that is not there is none."""
        try:
            await self._desk.writable(principal, ReviewQueue, queue_id)
        except ReviewNotFound:
            return
        async with self._desk.store.write() as work:
            await work.reviews.delete(ReviewQueue, queue_id)
            await work.commit()

    async def add_items(
        self, principal: Principal, queue_id: str, item_ids: Sequence[str]
    ) -> list[ReviewItem]:
        """Put traces of the queue's experiment into a queue; those that are there stay as they are.

        Raises:
            TraceNotFound: One is not of that experiment.
        """
        wanted = check_items(item_ids)
        queue = await self._desk.writable(principal, ReviewQueue, queue_id)
        now = self._desk.now()
        async with self._desk.store.write() as work:
            traces = await work.traces.get(list(wanted))
            for one in wanted:
                if one not in traces or traces[one].experiment_id != queue.experiment_id:
                    raise TraceNotFound(one)
            held = await work.reviews.items_of(queue_id, wanted)
            new = [
                ReviewItem(queue_id=queue_id, item_id=one, created_at=now, updated_at=now)
                for one in wanted
                if one not in held
            ]
            await work.reviews.put_items(new)
            await work.commit()
        held |= {one.item_id: one for one in new}
        return [held[one] for one in wanted]

    async def remove_items(
        self, principal: Principal, queue_id: str, item_ids: Sequence[str]
    ) -> None:
        """Take traces out of a queue; those that are not in it are ignored."""
        wanted = check_items(item_ids)
        await self._desk.writable(principal, ReviewQueue, queue_id)
        async with self._desk.store.write() as work:
            await work.reviews.delete_items(queue_id, wanted)
            await work.commit()

    async def items(
        self,
        principal: Principal,
        queue_id: str,
        status: str | None,
        *,
        after: Place | None,
        limit: int,
    ) -> list[ReviewItem]:
        """Return the next traces of a queue, the newest first.

        Args:
            principal: Who asks.
            queue_id: Of which queue.
            status: Of this status alone; of all when None.
            after: Where the page before ended; None for the first page.
            limit: The most to return.
        """
        await self._desk.get(principal, ReviewQueue, queue_id)
        async with self._desk.store.read() as view:
            return await view.reviews.items(queue_id, status=status, after=after, limit=limit)

    async def set_status(
        self, principal: Principal, queue_id: str, item_id: str, status: str
    ) -> ReviewItem:
        """Say what became of a trace in a queue; whoever says it is noted, until it is reopened.

        The same status again changes nothing, so that who said it first stays.
        """
        if status not in STATUSES:
            raise InvalidValue(f"`status` must be one of {', '.join(STATUSES)}", "status")
        await self._desk.writable(principal, ReviewQueue, queue_id)
        now = self._desk.now()
        async with self._desk.store.write() as work:
            held = await work.reviews.items_of(queue_id, [item_id.strip()])
            was = held.get(item_id.strip())
            if was is None:
                text = f"item '{item_id[:100]}' is not in review queue '{queue_id}'"
                raise ReviewNotFound(text)
            if was.status == status:
                return was
            done = status != _PENDING
            changed = replace(
                was,
                status=status,
                completed_by=principal.name if done else None,
                completed_at=now if done else None,
                updated_at=now,
            )
            await work.reviews.put_items([changed])
            await work.commit()
        return changed

    async def _questions_exist(
        self, principal: Principal, experiment_id: str, schema_ids: Sequence[str]
    ) -> None:
        if not schema_ids:
            return
        await self._desk.readable(principal, experiment_id)
        async with self._desk.store.read() as view:
            for one in schema_ids:
                found = await view.reviews.get(LabelSchema, one)
                if found is None or found.experiment_id != experiment_id:
                    raise InvalidValue(f"the experiment has no label schema {one}", "schema_ids")


def _owner(name: str) -> str:
    stripped = name.strip()
    if not 1 <= len(stripped) <= 250:
        raise InvalidValue("`new_owner` must have 1 to 250 characters", "new_owner")
    return stripped
