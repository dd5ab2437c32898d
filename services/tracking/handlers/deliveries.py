"""Brings events to webhooks: attempts with backoff and jitter, inside a budget."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from services.tracking.domain.lifecycle import micros_of
from services.tracking.domain.webhooks import Delivery, Webhook, signed_headers
from services.tracking.errors import SecretLost
from services.tracking.handlers.webhooks import give_up
from services.tracking.ports.store import Store
from services.tracking.ports.webhooks import HookAnswer, Hooks
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError

__all__ = ["Deliveries"]

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 16
_LEASE: Final = timedelta(seconds=120)
_LONGEST_WAIT: Final = 3600.0
_BACKOFF: Final = RetryPolicy(
    initial_seconds=1.0, maximum_seconds=600.0, budget_seconds=24 * 3600.0
)


class Deliveries:
    """Sends what waits. Any number of processes may: each takes what no other has.

    A delivery is taken for two minutes: when its process dies, another sends it again, with the
    same id. What a receiver refuses, and what it does not take within a day, is given up:
    kept with its reason, counted and logged.

    Args:
        store: Where deliveries wait.
        hooks: Reaches receivers, and opens their secrets.
        clock: Where time comes from.
        poll_seconds: How often it looks.
    """

    def __init__(
        self,
        store: Store,
        hooks: Hooks,
        clock: Clock,
        *,
        poll_seconds: float = 0.5,
    ) -> None:
        self._store = store
        self._sender = hooks.sender
        self._secrets = hooks.secrets
        self._clock = clock
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        """Send until cancelled; outages of the database are waited out."""
        while True:
            try:
                sent = await self.step()
            except TesseraError as error:
                _log.warning("webhooks: trying again: %s", error)
                sent = 0
            if not sent:
                await asyncio.sleep(self._poll_seconds)

    async def step(self) -> int:
        """Send what is due, at most 16 at once; return how many attempts were made."""
        now = self._clock.now()
        async with self._store.read() as view:
            if not await view.webhooks.all():
                return 0
        async with self._store.write() as work:
            taken = await work.webhooks.claim(micros_of(now), micros_of(now + _LEASE), _AT_ONCE)
            hooks = {hook.webhook_id: hook for hook in await work.webhooks.all()}
            await work.commit()
        async with asyncio.TaskGroup() as group:
            for one in taken:
                group.create_task(self._attempt(hooks.get(one.webhook_id), one))
        return len(taken)

    async def _attempt(self, hook: Webhook | None, delivery: Delivery) -> None:
        if hook is None:
            await self._keep(delivery, None)
            return
        answer = await self._sent(hook, delivery)
        if answer.is_success:
            await self._keep(delivery, None)
            return
        again = self._next(delivery, answer)
        reason = answer.error or f"status {answer.status}"
        await self._keep(delivery, again, reason)
        _log.warning(
            "webhook %s at %s: delivery %s, attempt %d: %s; %s",
            *(hook.name, urlsplit(hook.url).hostname, delivery.delivery_id),
            *(delivery.attempts + 1, reason, "given up" if again is None else "trying again"),
        )

    async def _keep(self, delivery: Delivery, again: Delivery | None, reason: str = "") -> None:
        async with self._store.write() as work:
            if again is not None:
                await work.webhooks.postpone(again)
            elif reason:
                tried = replace(delivery, attempts=delivery.attempts + 1)
                await give_up(work, tried, micros_of(self._clock.now()), reason)
            else:
                await work.webhooks.settle(delivery.delivery_id)
            await work.commit()

    async def _sent(self, hook: Webhook, delivery: Delivery) -> HookAnswer:
        if not hook.is_active:
            return HookAnswer(410, error="the webhook was disabled")
        try:
            secret = self._secrets.open(hook.sealed_secret)
        except SecretLost as error:
            return HookAnswer(0, error=error.message)
        seconds = int(self._clock.now().timestamp())
        headers = signed_headers(delivery.delivery_id, seconds, delivery.body, secret)
        return await self._sender.send(hook.url, delivery.body, headers)

    def _next(self, delivery: Delivery, answer: HookAnswer) -> Delivery | None:
        """Return a delivery as it waits for its next attempt; None when there is none."""
        now = micros_of(self._clock.now())
        attempts = delivery.attempts + 1
        delay = _BACKOFF.delay(attempts, (now - delivery.created_at) / 1e6)
        if delay is None or not answer.is_passing:
            return None
        delay = max(delay, min(answer.retry_after, _LONGEST_WAIT))
        return replace(delivery, attempts=attempts, due_at=now + int(delay * 1e6))
