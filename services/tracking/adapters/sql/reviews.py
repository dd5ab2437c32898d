"""Questions, queues of traces and issues in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.issue_search import IssueSearch
from services.tracking.adapters.sql.tables import REVIEW_ITEMS, REVIEWS
from services.tracking.domain.reviews import (
    Issue,
    IssuePlace,
    LabelSchema,
    ReviewItem,
    ReviewQueue,
)
from services.tracking.domain.search.syntax import Filter
from services.tracking.errors import ReviewExists
from services.tracking.ports.reviews import Place, Reviewed, T

__all__ = ["SqlReviews"]

_KINDS: Final[Mapping[type[Reviewed], str]] = {
    LabelSchema: "schema",
    ReviewQueue: "queue",
    Issue: "issue",
}
_CHUNK: Final = 500
_R, _I = REVIEWS.c, REVIEW_ITEMS.c


class SqlReviews:
    """The store in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, kind: type[T], thing_id: str) -> T | None:
        """Return one; None when there is none."""
        query = sa.select(_R.body).where(_R.kind == _KINDS[kind], _R.id == thing_id)
        body = await self._session.scalar(query)
        return None if body is None else _thing(kind, body)

    async def homes_of_issues(self) -> set[str]:
        """Return the experiments that have issues."""
        query = sa.select(_R.experiment_id).where(_R.kind == _KINDS[Issue]).distinct()
        return set(await self._session.scalars(query))

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
        search = IssueSearch(self._session.get_bind().dialect.name)
        query = search.listing(experiment_ids, conditions, counted=counted, after=after)
        rows = await self._session.execute(query.limit(limit))
        return [
            replace(_thing(Issue, body), trace_count=traces if counted else None)
            for body, traces in rows
        ]

    async def by_key(self, kind: type[T], experiment_id: str, key: str) -> T | None:
        """Return the one of a key; None when there is none."""
        own = (_R.experiment_id == experiment_id, _R.kind == _KINDS[kind], _R.name_key == key)
        body = await self._session.scalar(sa.select(_R.body).where(*own))
        return None if body is None else _thing(kind, body)

    async def page(
        self, kind: type[T], experiment_id: str, *, after: Place | None, limit: int
    ) -> list[T]:
        """Return the next of an experiment, the newest first, then by id."""
        bodies = await self._session.scalars(_listing(kind, experiment_id, after).limit(limit))
        return [_thing(kind, body) for body in bodies]

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
        found: list[ReviewQueue] = []
        while len(found) < limit:
            query = _listing(ReviewQueue, experiment_id, after).limit(limit)
            if item_id is not None:
                holders = sa.select(_I.queue_id).where(_I.item_id == item_id)
                query = query.where(_R.id.in_(holders))
            if user is not None:
                # Other parts of the body may hold the same text: it is looked at again below.
                text = orjson.dumps(user).decode()
                query = query.where(_R.body.contains(text, autoescape=True))
            read = [_thing(ReviewQueue, body) for body in await self._session.scalars(query)]
            found += [one for one in read if user is None or user in one.users]
            if len(read) < limit:
                break
            after = read[-1].created_at, read[-1].id
        return found[:limit]

    async def put(self, thing: Reviewed) -> None:
        """Store a new one, or the new state of one."""
        which = {"kind": _KINDS[type(thing)], "id": thing.id}
        values = {
            "experiment_id": thing.experiment_id,
            "name_key": thing.key,
            "body": _body(thing),
            "created_at": thing.created_at,
        }
        change = sa.update(REVIEWS).where(_R.kind == which["kind"], _R.id == which["id"])
        try:
            async with self._session.begin_nested():
                changed = await self._session.execute(change.values(values))
                if not changed.rowcount:  # type: ignore[attr-defined]
                    await self._session.execute(sa.insert(REVIEWS).values({**which, **values}))
        except IntegrityError:
            raise ReviewExists(f"'{thing.name}' is taken in the experiment") from None

    async def delete(self, kind: type[Reviewed], thing_id: str) -> None:
        """Forget one, a queue with its items."""
        gone = (_R.kind == _KINDS[kind], _R.id == thing_id)
        await self._session.execute(sa.delete(REVIEWS).where(*gone))
        if kind is ReviewQueue:
            await self._session.execute(sa.delete(REVIEW_ITEMS).where(_I.queue_id == thing_id))

    async def items(
        self, queue_id: str, *, status: str | None = None, after: Place | None = None, limit: int
    ) -> list[ReviewItem]:
        """Return the next items of a queue, the newest first, then by id."""
        query = sa.select(REVIEW_ITEMS).where(
            _I.queue_id == queue_id, *_behind(_I.created_at, _I.item_id, after)
        )
        if status is not None:
            query = query.where(_I.status == status)
        query = query.order_by(_I.created_at.desc(), _I.item_id).limit(limit)
        return [ReviewItem(**row._asdict()) for row in await self._session.execute(query)]

    async def items_of(self, queue_id: str, item_ids: Collection[str]) -> dict[str, ReviewItem]:
        """Return those of the items that a queue holds."""
        found: dict[str, ReviewItem] = {}
        for some in _chunks(item_ids):
            query = sa.select(REVIEW_ITEMS).where(_I.queue_id == queue_id, _I.item_id.in_(some))
            for row in await self._session.execute(query):
                found[row.item_id] = ReviewItem(**row._asdict())
        return found

    async def put_items(self, items: Sequence[ReviewItem]) -> None:
        """Store items, new or again."""
        for queue_id in {one.queue_id for one in items}:
            mine = [one for one in items if one.queue_id == queue_id]
            await self.delete_items(queue_id, [one.item_id for one in mine])
        if items:
            await self._session.execute(sa.insert(REVIEW_ITEMS), [asdict(one) for one in items])

    async def delete_items(self, queue_id: str, item_ids: Collection[str]) -> None:
        """Forget items."""
        for some in _chunks(item_ids):
            gone = (_I.queue_id == queue_id, _I.item_id.in_(some))
            await self._session.execute(sa.delete(REVIEW_ITEMS).where(*gone))

    async def forget_items(self, item_ids: Collection[str]) -> None:
        """Forget items in whatever queue."""
        for some in _chunks(item_ids):
            await self._session.execute(sa.delete(REVIEW_ITEMS).where(_I.item_id.in_(some)))


def _listing(kind: type[Reviewed], experiment_id: str, after: Place | None) -> sa.Select[str]:
    own = (_R.experiment_id == experiment_id, _R.kind == _KINDS[kind])
    query = sa.select(_R.body).where(*own, *_behind(_R.created_at, _R.id, after))
    return query.order_by(_R.created_at.desc(), _R.id)


def _behind(
    created_at: sa.ColumnElement[int], thing_id: sa.ColumnElement[str], after: Place | None
) -> Sequence[sa.ColumnElement[bool]]:
    """What is true of what follows a place, where the newest come first."""
    if after is None:
        return ()
    at, last = after
    # The first alone lets the index find the place.
    return created_at <= at, sa.or_(created_at < at, thing_id > last)


def _chunks(values: Collection[str]) -> list[list[str]]:
    every = sorted(values)
    return [every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK)]


def _body(thing: Reviewed) -> str:
    values = asdict(thing)
    values.pop("trace_count", None)
    return orjson.dumps(values).decode()


def _thing(kind: type[T], body: str) -> T:
    values: dict[str, Any] = orjson.loads(body)
    listed = {name: tuple(one) for name, one in values.items() if isinstance(one, list)}
    return kind(**{**values, **listed})
