"""Webhooks in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.webhooks import Delivery, GivenUp, Webhook

__all__ = ["InMemoryWebhooks"]


class InMemoryWebhooks:
    """Webhooks and deliveries in dictionaries of a state."""

    def __init__(
        self,
        webhooks: dict[str, Webhook],
        deliveries: dict[str, Delivery],
        given_up: dict[str, GivenUp],
    ) -> None:
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._given_up = given_up

    async def all(self) -> list[Webhook]:
        """Return all webhooks, the newest first, then by id."""
        return sorted(self._webhooks.values(), key=lambda one: (-one.created_at, one.webhook_id))

    async def get(self, webhook_id: str) -> Webhook | None:
        """Return the webhook; None when there is none."""
        return self._webhooks.get(webhook_id)

    async def put(self, webhook: Webhook) -> None:
        """Store a new webhook, or the new state of one."""
        self._webhooks[webhook.webhook_id] = webhook

    async def delete(self, webhook_id: str) -> bool:
        """Delete a webhook with what is on its way to it; return whether there was one."""
        for one in [*self._deliveries.values()]:
            if one.webhook_id == webhook_id:
                del self._deliveries[one.delivery_id]
        for lost in await self.given_up(webhook_id, before=None, limit=len(self._given_up)):
            del self._given_up[lost.delivery.delivery_id]
        return self._webhooks.pop(webhook_id, None) is not None

    async def enqueue(self, deliveries: Collection[Delivery]) -> None:
        """Store deliveries."""
        self._deliveries.update({one.delivery_id: one for one in deliveries})

    async def waiting(self, webhook_id: str) -> int:
        """Return how many deliveries wait for a webhook."""
        return sum(one.webhook_id == webhook_id for one in self._deliveries.values())

    async def claim(self, now: Micros, until: Micros, limit: int) -> list[Delivery]:
        """Take deliveries that are due, the oldest first."""
        due = [one for one in self._deliveries.values() if one.due_at <= now]
        taken = sorted(due, key=lambda one: (one.due_at, one.delivery_id))[:limit]
        self._deliveries.update({one.delivery_id: replace(one, due_at=until) for one in taken})
        return taken

    async def postpone(self, delivery: Delivery) -> None:
        """Store a delivery's attempts and when it is due again."""
        if delivery.delivery_id in self._deliveries:
            self._deliveries[delivery.delivery_id] = delivery

    async def settle(self, delivery_id: str) -> None:
        """Forget a delivery."""
        self._deliveries.pop(delivery_id, None)

    async def give_up(self, given_up: GivenUp, *, most: int) -> None:
        """Keep a delivery that is not tried any more."""
        delivery = given_up.delivery
        self._deliveries.pop(delivery.delivery_id, None)
        self._given_up[delivery.delivery_id] = given_up
        kept = await self.given_up(delivery.webhook_id, before=None, limit=len(self._given_up))
        for old in kept[most:]:
            del self._given_up[old.delivery.delivery_id]

    async def given_up(
        self, webhook_id: str, *, before: tuple[Micros, str] | None, limit: int
    ) -> list[GivenUp]:
        """Return what was given up, the newest first, then by id."""
        found = [
            one
            for one in self._given_up.values()
            if webhook_id in {"", one.delivery.webhook_id}
            and (before is None or (one.given_up_at, one.delivery.delivery_id) < before)
        ]
        found.sort(key=lambda one: (one.given_up_at, one.delivery.delivery_id), reverse=True)
        return found[:limit]
