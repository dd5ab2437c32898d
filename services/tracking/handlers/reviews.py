"""Use cases of questions about traces, queues of traces to look at, and issues found in them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from services.tracking.domain.lifecycle import LifecycleStage, Micros, micros_of
from services.tracking.domain.reviews import (
    DEFAULT_QUESTION,
    QUEUE_TYPES,
    SCHEMA_TYPES,
    STATUSES,
    Issue,
    LabelSchema,
    ReviewItem,
    ReviewQueue,
    check_input,
    check_issue,
    check_items,
    check_queue_name,
    check_schema,
    checked_schema_ids,
    checked_users,
    unchanged_kind,
)
from services.tracking.domain.search.evaluate import matches
from services.tracking.domain.search.model_fields import issue_values
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import ISSUES
from services.tracking.errors import (
    ExperimentNotActive,
    ExperimentNotFound,
    InvalidValue,
    ReviewExists,
    ReviewNotFound,
    TraceNotFound,
)
from services.tracking.handlers.access import Access
from services.tracking.ports import Store
from services.tracking.review_ports import Reviewed
from tessera_kit.clock import Clock
from tessera_kit.rpc.identity import Principal

__all__ = ["Reviews"]

T = TypeVar("T", LabelSchema, ReviewQueue, Issue)
_USER, _CUSTOM = QUEUE_TYPES
_PENDING: Final = STATUSES[0]
_WORDS: Final[dict[type[Reviewed], str]] = {
    LabelSchema: "label schema",
    ReviewQueue: "review queue",
    Issue: "issue",
}


class Reviews:
    """Keeps them; an experiment's grants hold for all that belongs to it.

    Every method raises, for what it is given:
        ExperimentNotFound, ReviewNotFound: It is not there.
        PermissionDenied: The caller may not read, or write, the experiment.
        InvalidValue: A field breaks the rules.

    Args:
        store: Where they are kept.
        access: Who may do what with experiments.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    # Questions

    async def create_schema(
        self,
        principal: Principal,
        experiment_id: str,
        *,
        name: str,
        kind: str,
        asked: dict[str, Any],
        instruction: str | None,
        enable_comment: bool,
    ) -> LabelSchema:
        """Store a question.

        Raises:
            ReviewExists: The experiment has one of that name.
            ExperimentNotActive: The experiment was deleted.
        """
        now = self._now()
        made = LabelSchema(
            id=f"ls-{uuid.uuid4().hex}",
            experiment_id=experiment_id,
            name=name,
            type=kind,
            input=asked,
            instruction=instruction,
            enable_comment=enable_comment,
            created_by=principal.name,
            created_at=now,
            updated_at=now,
        )
        await self._add(principal, check_schema(made))
        return made

    async def get(self, principal: Principal, kind: type[T], thing_id: str) -> T:
        """Return a question, a queue or an issue."""
        async with self._store.read() as view:
            found = await view.reviews.get(kind, thing_id)
        if found is None:
            raise _missing(kind, thing_id)
        await self._access.read(principal, found.experiment_id)
        return found

    async def schema_by_name(
        self, principal: Principal, experiment_id: str, name: str
    ) -> LabelSchema:
        """Return the question of a name."""
        return await self._by_key(principal, LabelSchema, experiment_id, name)

    async def schemas(self, principal: Principal, experiment_id: str) -> list[LabelSchema]:
        """Return an experiment's questions, the newest first; each has its own one at least."""
        await self._readable(principal, experiment_id)
        async with self._store.read() as view:
            found = await view.reviews.of(LabelSchema, [experiment_id])
        if any(one.is_default for one in found):
            return found
        now = self._now()
        own = LabelSchema(
            id=f"ls-{uuid.uuid4().hex}",
            experiment_id=experiment_id,
            name=DEFAULT_QUESTION,
            type=SCHEMA_TYPES[0],
            input={"text": {}},
            instruction="Share any feedback on this trace.",
            is_default=True,
            created_at=now,
            updated_at=now,
        )
        async with self._store.write() as work:
            try:
                await work.reviews.put(own)
                await work.commit()
            except ReviewExists:
                pass  # Somebody else listed them at the same time.
        async with self._store.read() as view:
            return await view.reviews.of(LabelSchema, [experiment_id])

    async def update_schema(
        self,
        principal: Principal,
        schema_id: str,
        *,
        name: str | None,
        instruction: str | None,
        enable_comment: bool | None,
        asked: dict[str, Any] | None,
    ) -> LabelSchema:
        """Change what is not None.

        Raises:
            ReviewExists: The experiment has another one of that name.
        """
        was = await self._writable(principal, LabelSchema, schema_id)
        if was.is_default:
            raise InvalidValue("an experiment's own question does not change", "schema_id")
        if asked is not None:
            check_input(asked)
            unchanged_kind(was.input, asked)
        changed = replace(
            was,
            name=was.name if name is None else name,
            instruction=was.instruction if instruction is None else instruction,
            enable_comment=was.enable_comment if enable_comment is None else enable_comment,
            input=was.input if asked is None else asked,
            updated_at=self._now(),
        )
        await self._put(check_schema(changed))
        return changed

    async def delete_schema(self, principal: Principal, schema_id: str) -> None:
        """Delete a question; assessments that answered it stay. One that is not there is none."""
        try:
            found = await self._writable(principal, LabelSchema, schema_id)
        except ReviewNotFound:
            return
        if found.is_default:
            raise InvalidValue("an experiment's own question is not deleted", "schema_id")
        async with self._store.write() as work:
            await work.reviews.delete(LabelSchema, schema_id)
            await work.commit()

    # Queues

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
        now = self._now()
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
        await self._add(principal, made)
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
        return await self._by_key(principal, ReviewQueue, experiment_id, name.lower())

    async def queues(
        self, principal: Principal, experiment_id: str, *, user: str | None, item_id: str | None
    ) -> list[ReviewQueue]:
        """Return an experiment's queues, the newest first; of a user, with an item, or all."""
        await self._readable(principal, experiment_id)
        async with self._store.read() as view:
            found = await view.reviews.of(ReviewQueue, [experiment_id])
            holders = None if item_id is None else await view.reviews.queues_with(item_id)
        return [
            one
            for one in found
            if (user is None or user.strip().lower() in one.users)
            and (holders is None or one.id in holders)
        ]

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
        was = await self._writable(principal, ReviewQueue, queue_id)
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
            updated_at=self._now(),
        )
        async with self._store.write() as work:
            if asked is not None and await work.reviews.items(queue_id):
                text = "the questions of a queue do not change while it holds items"
                raise InvalidValue(text, "schema_ids")
            await work.reviews.put(changed)
            await work.commit()
        return changed

    async def delete_queue(self, principal: Principal, queue_id: str) -> None:
        """Delete a queue; assessments of its traces stay. One that is not there is none."""
        try:
            await self._writable(principal, ReviewQueue, queue_id)
        except ReviewNotFound:
            return
        async with self._store.write() as work:
            await work.reviews.delete(ReviewQueue, queue_id)
            await work.commit()

    # Items of queues

    async def add_items(
        self, principal: Principal, queue_id: str, item_ids: Sequence[str]
    ) -> list[ReviewItem]:
        """Put traces of the queue's experiment into a queue; those that are there stay as they are.

        Raises:
            TraceNotFound: One is not of that experiment.
        """
        wanted = check_items(item_ids)
        queue = await self._writable(principal, ReviewQueue, queue_id)
        now = self._now()
        async with self._store.write() as work:
            traces = await work.traces.get(list(wanted))
            for one in wanted:
                if one not in traces or traces[one].experiment_id != queue.experiment_id:
                    raise TraceNotFound(one)
            held = {one.item_id: one for one in await work.reviews.items(queue_id)}
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
        await self._writable(principal, ReviewQueue, queue_id)
        async with self._store.write() as work:
            await work.reviews.delete_items(queue_id, wanted)
            await work.commit()

    async def items(
        self, principal: Principal, queue_id: str, status: str | None
    ) -> list[ReviewItem]:
        """Return the traces of a queue, the newest first: of one status, or all."""
        await self.get(principal, ReviewQueue, queue_id)
        async with self._store.read() as view:
            found = await view.reviews.items(queue_id)
        return [one for one in found if status in {None, one.status}]

    async def set_status(
        self, principal: Principal, queue_id: str, item_id: str, status: str
    ) -> ReviewItem:
        """Say what became of a trace in a queue; whoever says it is noted, until it is reopened.

        The same status again changes nothing, so that who said it first stays.
        """
        if status not in STATUSES:
            raise InvalidValue(f"`status` must be one of {', '.join(STATUSES)}", "status")
        await self._writable(principal, ReviewQueue, queue_id)
        now = self._now()
        async with self._store.write() as work:
            items = await work.reviews.items(queue_id)
            was = next((one for one in items if one.item_id == item_id.strip()), None)
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

    # Issues

    async def create_issue(self, principal: Principal, issue: Issue) -> Issue:
        """Store an issue; its id and times are set here.

        Raises:
            ExperimentNotActive: The experiment was deleted.
        """
        now = self._now()
        made = replace(
            check_issue(issue), id=f"iss-{uuid.uuid4().hex}", created_at=now, updated_at=now
        )
        await self._add(principal, made)
        return made

    async def update_issue(
        self,
        principal: Principal,
        issue_id: str,
        *,
        name: str | None,
        description: str | None,
        status: str | None,
        severity: str | None,
    ) -> Issue:
        """Change what is not None."""
        was = await self._writable(principal, Issue, issue_id)
        changed = replace(
            was,
            name=was.name if name is None else name,
            description=was.description if description is None else description,
            status=was.status if status is None else status,
            severity=was.severity if severity is None else severity,
            updated_at=self._now(),
        )
        await self._put(check_issue(changed))
        return changed

    async def find_issues(
        self, principal: Principal, experiment_id: str | None, text: str, *, counted: bool
    ) -> list[Issue]:
        """Return issues that match: the most severe first, then by their traces, then the newest.

        Args:
            principal: Who asks.
            experiment_id: Of which experiment; None for all that the caller may read.
            text: A filter over `status` and `source_run_id`.
            counted: Whether to say in how many traces each was found.

        Raises:
            InvalidFilter: The filter does not parse.
        """
        conditions = parse_filter(text, ISSUES)
        if experiment_id is not None:
            await self._readable(principal, experiment_id)
        chosen = None if experiment_id is None else {experiment_id}
        async with self._store.read() as view:
            found = await view.reviews.of(Issue, chosen)
        if chosen is None:
            chosen = await self._access.readable(principal, {one.experiment_id for one in found})
        found = [
            one
            for one in found
            if one.experiment_id in chosen and matches(issue_values(one), conditions)
        ]
        if counted:
            async with self._store.read() as view:
                counts = await view.reviews.found_in([one.id for one in found])
            found = [replace(one, trace_count=counts.get(one.id, 0)) for one in found]
        return sorted(found, key=lambda one: (-one.rank, -(one.trace_count or 0)))

    # What they share

    def _now(self) -> Micros:
        return micros_of(self._clock.now())

    async def _add(self, principal: Principal, thing: Reviewed) -> None:
        await self._must_exist(thing.experiment_id)
        await self._access.write(principal, thing.experiment_id)
        async with self._store.write() as work:
            experiment = await work.experiments.lock(thing.experiment_id)
            if experiment is None or experiment.stage is not LifecycleStage.ACTIVE:
                raise ExperimentNotActive(thing.experiment_id)
            await work.reviews.put(thing)
            await work.commit()

    async def _put(self, thing: Reviewed) -> None:
        async with self._store.write() as work:
            await work.reviews.put(thing)
            await work.commit()

    async def _writable(self, principal: Principal, kind: type[T], thing_id: str) -> T:
        async with self._store.read() as view:
            found = await view.reviews.get(kind, thing_id)
        if found is None:
            raise _missing(kind, thing_id)
        await self._access.write(principal, found.experiment_id)
        return found

    async def _by_key(self, principal: Principal, kind: type[T], experiment_id: str, key: str) -> T:
        await self._readable(principal, experiment_id)
        async with self._store.read() as view:
            for one in await view.reviews.of(kind, [experiment_id]):
                if one.key == key:
                    return one
        raise _missing(kind, key)

    async def _questions_exist(
        self, principal: Principal, experiment_id: str, schema_ids: Sequence[str]
    ) -> None:
        if not schema_ids:
            return
        await self._readable(principal, experiment_id)
        async with self._store.read() as view:
            known = {one.id for one in await view.reviews.of(LabelSchema, [experiment_id])}
        missing = [one for one in schema_ids if one not in known]
        if missing:
            raise InvalidValue(f"the experiment has no label schema {missing[0]}", "schema_ids")

    async def _readable(self, principal: Principal, experiment_id: str) -> None:
        await self._must_exist(experiment_id)
        await self._access.read(principal, experiment_id)

    async def _must_exist(self, experiment_id: str) -> None:
        async with self._store.read() as view:
            if await view.experiments.get(experiment_id) is None:
                raise ExperimentNotFound(
                    f"No Experiment with id={experiment_id[:300]} exists",
                    metadata={"experiment_id": experiment_id[:300]},
                )


def _owner(name: str) -> str:
    stripped = name.strip()
    if not 1 <= len(stripped) <= 250:
        raise InvalidValue("`new_owner` must have 1 to 250 characters", "new_owner")
    return stripped


def _missing(kind: type[Reviewed], which: str) -> ReviewNotFound:
    return ReviewNotFound(f"there is no {_WORDS[kind]} '{which[:300]}'")
