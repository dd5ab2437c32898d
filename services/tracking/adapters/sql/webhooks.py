"""Webhooks in SQL, and the deliveries that wait for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.tables import WEBHOOK_DELIVERIES, WEBHOOK_GIVEN_UP, WEBHOOKS
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.webhooks import Delivery, GivenUp, HookEvent, Webhook

__all__ = ["SqlWebhooks"]


class SqlWebhooks:
    """The webhook store in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self) -> list[Webhook]:
        """Return all webhooks, the newest first, then by id."""
        order = (WEBHOOKS.c.created_at.desc(), WEBHOOKS.c.webhook_id)
        rows = await self._session.execute(sa.select(WEBHOOKS).order_by(*order))
        return [_webhook(row) for row in rows]

    async def get(self, webhook_id: str) -> Webhook | None:
        """Return the webhook; None when there is none."""
        statement = sa.select(WEBHOOKS).where(WEBHOOKS.c.webhook_id == webhook_id)
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else _webhook(row)

    async def put(self, webhook: Webhook) -> None:
        """Store a new webhook, or the new state of one."""
        values = {
            **asdict(webhook),
            "events": orjson.dumps([[*one] for one in webhook.events]).decode(),
        }
        changed = await self._session.execute(
            sa.update(WEBHOOKS).where(WEBHOOKS.c.webhook_id == webhook.webhook_id).values(values)
        )
        if not changed.rowcount:  # type: ignore[attr-defined]
            await self._session.execute(sa.insert(WEBHOOKS).values(values))

    async def delete(self, webhook_id: str) -> bool:
        """Delete a webhook with what is on its way to it; return whether there was one."""
        waiting = WEBHOOK_DELIVERIES.c.webhook_id == webhook_id
        await self._session.execute(sa.delete(WEBHOOK_DELIVERIES).where(waiting))
        lost = WEBHOOK_GIVEN_UP.c.webhook_id == webhook_id
        await self._session.execute(sa.delete(WEBHOOK_GIVEN_UP).where(lost))
        gone = await self._session.execute(
            sa.delete(WEBHOOKS).where(WEBHOOKS.c.webhook_id == webhook_id)
        )
        return bool(gone.rowcount)  # type: ignore[attr-defined]

    async def enqueue(self, deliveries: Collection[Delivery]) -> None:
        """Store deliveries."""
        if deliveries:
            rows = [asdict(one) for one in deliveries]
            await self._session.execute(sa.insert(WEBHOOK_DELIVERIES), rows)

    async def waiting(self, webhook_id: str) -> int:
        """Return how many deliveries wait for a webhook."""
        return (
            await self._session.scalar(
                sa.select(sa.func.count())
                .select_from(WEBHOOK_DELIVERIES)
                .where(WEBHOOK_DELIVERIES.c.webhook_id == webhook_id)
            )
            or 0
        )

    async def claim(self, now: Micros, until: Micros, limit: int) -> list[Delivery]:
        """Take deliveries that are due, the oldest first."""
        deliveries = WEBHOOK_DELIVERIES.c
        due = (
            sa.select(WEBHOOK_DELIVERIES)
            .where(deliveries.due_at <= now)
            .order_by(deliveries.due_at, deliveries.delivery_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        taken = [Delivery(**row._asdict()) for row in await self._session.execute(due)]
        if not taken:
            return []
        ids = [one.delivery_id for one in taken]
        await self._session.execute(
            sa.update(WEBHOOK_DELIVERIES)
            .where(deliveries.delivery_id.in_(ids))
            .values(due_at=until)
        )
        return taken

    async def postpone(self, delivery: Delivery) -> None:
        """Store a delivery's attempts and when it is due again."""
        await self._session.execute(
            sa.update(WEBHOOK_DELIVERIES)
            .where(WEBHOOK_DELIVERIES.c.delivery_id == delivery.delivery_id)
            .values(attempts=delivery.attempts, due_at=delivery.due_at)
        )

    async def settle(self, delivery_id: str) -> None:
        """Forget a delivery."""
        gone = WEBHOOK_DELIVERIES.c.delivery_id == delivery_id
        await self._session.execute(sa.delete(WEBHOOK_DELIVERIES).where(gone))

    async def give_up(self, given_up: GivenUp, *, most: int) -> None:
        """Keep a delivery that is not tried any more."""
        delivery = given_up.delivery
        await self.settle(delivery.delivery_id)
        lost = WEBHOOK_GIVEN_UP.c
        row = {
            **asdict(delivery),
            "given_up_at": given_up.given_up_at,
            "reason": given_up.reason,
        }
        await self._session.execute(sa.insert(WEBHOOK_GIVEN_UP).values(row))
        too_old = (
            sa.select(lost.delivery_id)
            .where(lost.webhook_id == delivery.webhook_id)
            .order_by(lost.given_up_at.desc(), lost.delivery_id.desc())
            # SQLite takes no offset without a limit.
            .limit(most)
            .offset(most)
        )
        await self._session.execute(
            sa.delete(WEBHOOK_GIVEN_UP).where(lost.delivery_id.in_(too_old))
        )

    async def given_up(
        self, webhook_id: str, *, before: tuple[Micros, str] | None, limit: int
    ) -> list[GivenUp]:
        """Return what was given up, the newest first, then by id."""
        lost = WEBHOOK_GIVEN_UP.c
        query = sa.select(WEBHOOK_GIVEN_UP).order_by(
            lost.given_up_at.desc(), lost.delivery_id.desc()
        )
        if webhook_id:
            query = query.where(lost.webhook_id == webhook_id)
        if before is not None:
            query = query.where(sa.tuple_(lost.given_up_at, lost.delivery_id) < before)
        rows = await self._session.execute(query.limit(limit))
        return [_given_up(row) for row in rows]


def _webhook(row: Any) -> Webhook:
    values = dict(row._asdict())
    events = tuple(HookEvent(*one) for one in orjson.loads(values.pop("events")))
    return Webhook(events=events, **values)


def _given_up(row: Any) -> GivenUp:
    values = dict(row._asdict())
    at, reason = values.pop("given_up_at"), values.pop("reason")
    return GivenUp(delivery=Delivery(**values), given_up_at=at, reason=reason)
