"""Use cases of webhooks: who is told, and what is put on its way to them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson

from services.tracking.domain.lifecycle import Micros, micros_of
from services.tracking.domain.webhooks import (
    EVENTS,
    Delivery,
    GivenUp,
    HookEvent,
    Webhook,
    check_events,
    check_webhook_name,
    signed_headers,
)
from services.tracking.errors import InvalidValue, TooManyWebhooks, WebhookNotFound
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store, Work
from services.tracking.ports.webhooks import HookAnswer, Hooks
from tessera_kit.clock import Clock
from tessera_kit.rpc.identity import Principal
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["Webhooks", "give_up"]

MOST: Final = 200
MOST_GIVEN_UP: Final = 1000
_MOST_WAITING: Final = 10_000
_GROUP: Final = "tessera-tracking-webhooks"


class Webhooks:
    """Keeps webhooks, and puts events on their way to them.

    Webhooks hear of all models, so only who manages the metastore may see or change them.

    Args:
        store: Where they and their deliveries are kept.
        access: Who may manage them.
        hooks: Encrypts secrets, says which URLs there may be, and reaches receivers for tests.
        clock: Where time comes from.
    """

    def __init__(
        self,
        store: Store,
        access: Access,
        hooks: Hooks,
        clock: Clock,
    ) -> None:
        self._store = store
        self._access = access
        self._sender = hooks.sender
        self._secrets = hooks.secrets
        self._urls = hooks.urls
        self._clock = clock

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        url: str,
        events: Collection[HookEvent],
        description: str,
        secret: str,
        is_active: bool,
    ) -> Webhook:
        """Store a webhook.

        Raises:
            PermissionDenied: The caller does not manage the metastore.
            InvalidValue: The name, the URL or an event breaks the rules.
            TooManyWebhooks: There are as many as there may be.
        """
        await self._access.manage_all(principal)
        now = micros_of(self._clock.now())
        made = Webhook(
            webhook_id=str(uuid.uuid4()),
            name=check_webhook_name(name),
            url=self._urls.check(url),
            events=check_events(events),
            description=_description(description),
            is_active=is_active,
            sealed_secret=self._secrets.seal(secret),
            created_at=now,
            updated_at=now,
        )
        async with self._store.write() as work:
            if len(await work.webhooks.all()) >= MOST:
                raise TooManyWebhooks(f"there may be {MOST} webhooks at most; delete one")
            await work.webhooks.put(made)
            await work.commit()
        return made

    async def get(self, principal: Principal, webhook_id: str) -> Webhook:
        """Return a webhook.

        Raises:
            PermissionDenied: The caller does not manage the metastore.
            WebhookNotFound: There is none.
        """
        await self._access.manage_all(principal)
        async with self._store.read() as view:
            return _found(await view.webhooks.get(webhook_id), webhook_id)

    async def all(self, principal: Principal) -> list[Webhook]:
        """Return all webhooks, the newest first.

        Raises:
            PermissionDenied: The caller does not manage the metastore.
        """
        await self._access.manage_all(principal)
        async with self._store.read() as view:
            return await view.webhooks.all()

    async def update(
        self,
        principal: Principal,
        webhook_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Collection[HookEvent] | None = None,
        description: str | None = None,
        secret: str | None = None,
        is_active: bool | None = None,
    ) -> Webhook:
        """Change what is not None; raises what `create` and `get` do."""
        await self._access.manage_all(principal)
        async with self._store.write() as work:
            was = _found(await work.webhooks.get(webhook_id), webhook_id)
            changed = replace(
                was,
                name=was.name if name is None else check_webhook_name(name),
                url=was.url if url is None else self._urls.check(url),
                events=was.events if events is None else check_events(events),
                description=was.description if description is None else _description(description),
                sealed_secret=was.sealed_secret if secret is None else self._secrets.seal(secret),
                is_active=was.is_active if is_active is None else is_active,
                updated_at=micros_of(self._clock.now()),
            )
            await work.webhooks.put(changed)
            await work.commit()
        return changed

    async def delete(self, principal: Principal, webhook_id: str) -> None:
        """Delete a webhook with what is on its way to it; raises what `get` does."""
        await self._access.manage_all(principal)
        async with self._store.write() as work:
            if not await work.webhooks.delete(webhook_id):
                raise WebhookNotFound(webhook_id)
            await work.commit()

    async def test(
        self, principal: Principal, webhook_id: str, event: HookEvent | None
    ) -> HookAnswer:
        """Send an example of an event, or of the webhook's first one, once and now.

        Raises:
            PermissionDenied, WebhookNotFound: As `get`.
            InvalidValue: There is no such event.
            SecretLost: Its secret cannot be read.
        """
        hook = await self.get(principal, webhook_id)
        (told,) = check_events([event or hook.events[0]])
        body = _body(told, self._clock.now(), EVENTS.get(told, {}))
        headers = signed_headers(
            str(uuid.uuid4()),
            int(self._clock.now().timestamp()),
            body,
            self._secrets.open(hook.sealed_secret),
        )
        return await self._sender.send(hook.url, body, headers)

    async def heard(self, *events: HookEvent) -> bool:
        """Return whether any active webhook wants to hear of one of the events."""
        async with self._store.read() as view:
            return any(_wants(hook, *events) for hook in await view.webhooks.all())

    async def tell(
        self, event_id: str, at: datetime, event: HookEvent, data: Mapping[str, Any]
    ) -> None:
        """Put an event on its way to all that want to hear of it, once; it survives kill -9.

        A webhook that was made later is not told; one for which 10,000 wait already does not get
        more: what it would have got is kept among what was given up.

        Args:
            event_id: Of the event of the bus; the same one again changes nothing.
            at: When it happened.
            event: What happened.
            data: What is told of it.
        """
        now = micros_of(self._clock.now())
        body = _body(event, at, data)
        async with self._store.write() as work:
            if not await work.hear(_GROUP, event_id):
                return
            for hook in await work.webhooks.all():
                if not _wants(hook, event) or hook.created_at > micros_of(at):
                    continue
                delivery = Delivery(
                    delivery_id=str(
                        uuid.uuid5(uuid.NAMESPACE_OID, f"{event_id}/{hook.webhook_id}")
                    ),
                    webhook_id=hook.webhook_id,
                    body=body,
                    created_at=now,
                    due_at=now,
                )
                if await work.webhooks.waiting(hook.webhook_id) < _MOST_WAITING:
                    await work.webhooks.enqueue([delivery])
                else:
                    await give_up(work, delivery, now, f"{_MOST_WAITING} events wait already")
            await work.commit()

    async def given_up(
        self,
        principal: Principal,
        webhook_id: str,
        *,
        before: tuple[Micros, str] | None,
        limit: int,
    ) -> list[GivenUp]:
        """Return deliveries that were given up, the newest first; of all webhooks without an id.

        Raises:
            PermissionDenied: The caller does not manage the metastore.
            WebhookNotFound: There is no such webhook.
        """
        if webhook_id:
            await self.get(principal, webhook_id)
        await self._access.manage_all(principal)
        async with self._store.read() as view:
            return await view.webhooks.given_up(webhook_id, before=before, limit=limit)


async def give_up(work: Work, delivery: Delivery, now: Micros, reason: str) -> None:
    """Keep a delivery among those that are not tried any more, and count it."""
    lost = GivenUp(delivery=delivery, given_up_at=now, reason=reason)
    await work.webhooks.give_up(lost, most=MOST_GIVEN_UP)
    counter(names.TRACKING_WEBHOOKS_GIVEN_UP).inc()


def _body(event: HookEvent, at: datetime, data: Mapping[str, Any]) -> str:
    told = {
        "entity": event.entity,
        "action": event.action,
        "timestamp": at.isoformat(),
        "data": data,
    }
    return orjson.dumps(told).decode()


def _wants(hook: Webhook, *events: HookEvent) -> bool:
    return hook.is_active and any(event in hook.events for event in events)


def _found(webhook: Webhook | None, webhook_id: str) -> Webhook:
    if webhook is None:
        raise WebhookNotFound(webhook_id)
    return webhook


def _description(text: str) -> str:
    if len(text) > 1000:
        raise InvalidValue("a webhook's description has at most 1000 characters", "description")
    return text
