"""What tracking needs to keep webhooks and to reach their receivers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.webhooks import Delivery, GivenUp, HookUrls, Webhook

__all__ = ["HookAnswer", "HookSender", "Hooks", "SecretBox", "WebhookStore"]


class WebhookStore(Protocol):
    """Webhooks, and what is on its way to them."""

    async def all(self) -> list[Webhook]:
        """Return all webhooks, the newest first, then by id."""

    async def get(self, webhook_id: str) -> Webhook | None:
        """Return the webhook; None when there is none."""

    async def put(self, webhook: Webhook) -> None:
        """Store a new webhook, or the new state of one."""

    async def delete(self, webhook_id: str) -> bool:
        """Delete a webhook with what is on its way to it; return whether there was one."""

    async def enqueue(self, deliveries: Collection[Delivery]) -> None:
        """Store deliveries; their webhooks must exist."""

    async def waiting(self, webhook_id: str) -> int:
        """Return how many deliveries wait for a webhook."""

    async def claim(self, now: Micros, until: Micros, limit: int) -> list[Delivery]:
        """Take deliveries that are due, the oldest first; nobody else gets them before `until`."""

    async def postpone(self, delivery: Delivery) -> None:
        """Store a delivery's attempts and when it is due again; nothing when it is gone."""

    async def settle(self, delivery_id: str) -> None:
        """Forget a delivery."""

    async def give_up(self, given_up: GivenUp, *, most: int) -> None:
        """Keep a delivery that is not tried any more; it waits no longer.

        Of those of one webhook, the newest `most` are kept.
        """

    async def given_up(
        self, webhook_id: str, *, before: tuple[Micros, str] | None, limit: int
    ) -> list[GivenUp]:
        """Return what was given up, the newest first, then by id.

        Args:
            webhook_id: Of which webhook; of all when empty.
            before: When and which the last one seen was given up; None to begin.
            limit: How many at most.
        """


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What a receiver answered."""

    status: int
    """HTTP status; 0 when there was no answer."""
    body: str = ""
    """The beginning of its body."""
    retry_after: float = 0.0
    """Seconds after which it wants to be asked again; 0 when it does not say."""
    error: str = ""
    """Why there was no answer; empty when there was one."""

    @property
    def is_success(self) -> bool:
        """Whether it has taken the delivery."""
        return 200 <= self.status < 300

    @property
    def is_passing(self) -> bool:
        """Whether the same may succeed later."""
        return self.status in {0, 408, 429} or self.status >= 500


class HookSender(Protocol):
    """Sends to receivers that may be told; raises nothing but cancellation."""

    async def send(self, url: str, body: str, headers: Mapping[str, str]) -> HookAnswer:
        """POST a body. Redirects are not followed."""


class SecretBox(Protocol):
    """Keeps secrets from who reads the database."""

    def seal(self, secret: str) -> str:
        """Return a secret encrypted; empty stays empty."""

    def open(self, sealed: str) -> str:
        """Return a secret as it was; empty stays empty.

        Raises:
            SecretLost: It was sealed with another key.
        """


@dataclass(frozen=True, slots=True)
class Hooks:
    """What webhooks need of the outside."""

    sender: HookSender
    secrets: SecretBox
    urls: HookUrls
    """Which URLs they may have."""
