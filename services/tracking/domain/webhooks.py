"""Webhooks: who hears of what happens in the registry, in MLflow's words, with its signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from services.tracking.domain.lifecycle import Micros
from services.tracking.errors import InvalidValue

__all__ = [
    "EVENTS",
    "Delivery",
    "GivenUp",
    "HookEvent",
    "HookUrls",
    "Webhook",
    "check_events",
    "check_webhook_name",
    "is_public",
    "signed_headers",
]

_NAME: Final = re.compile(r"(?=.{1,63}\Z)[a-z0-9]([a-z0-9._-]*[a-z0-9])?\Z", re.IGNORECASE)
_LONGEST_URL: Final = 500
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HookEvent(NamedTuple):
    """What happened: `model_version`, `created`."""

    entity: str
    action: str

    def __str__(self) -> str:
        return f"{self.entity}.{self.action}"


_MODEL: Final[Mapping[str, Any]] = {"name": "example_model"}
_PROMPT: Final[Mapping[str, Any]] = {"name": "example_prompt"}
_OF_VERSION: Final[Mapping[str, Any]] = {"version": "1"}
_TAGS: Final[Mapping[str, Any]] = {"tags": {"example_key": "example_value"}}
_KEY: Final[Mapping[str, Any]] = {"key": "example_key"}
_VALUE: Final[Mapping[str, Any]] = {"value": "example_value"}
_ALIAS: Final[Mapping[str, Any]] = {"alias": "example_alias"}

EVENTS: Final[Mapping[HookEvent, Mapping[str, Any]]] = {
    HookEvent("registered_model", "created"): {
        **_MODEL,
        **_TAGS,
        "description": "An example registered model",
    },
    HookEvent("model_version", "created"): {
        **_MODEL,
        **_OF_VERSION,
        "source": "models:/123",
        "run_id": "abcd1234abcd5678",
        **_TAGS,
        "description": "An example model version",
    },
    HookEvent("model_version_tag", "set"): {**_MODEL, **_OF_VERSION, **_KEY, **_VALUE},
    HookEvent("model_version_tag", "deleted"): {**_MODEL, **_OF_VERSION, **_KEY},
    HookEvent("model_version_alias", "created"): {**_MODEL, **_ALIAS, **_OF_VERSION},
    HookEvent("model_version_alias", "deleted"): {**_MODEL, **_ALIAS},
    HookEvent("prompt", "created"): {**_PROMPT, **_TAGS, "description": "An example prompt"},
    HookEvent("prompt_version", "created"): {
        **_PROMPT,
        **_OF_VERSION,
        "template": "Hello {{name}}!",
        **_TAGS,
        "description": "An example prompt version",
    },
    HookEvent("prompt_tag", "set"): {**_PROMPT, **_KEY, **_VALUE},
    HookEvent("prompt_tag", "deleted"): {**_PROMPT, **_KEY},
    HookEvent("prompt_version_tag", "set"): {**_PROMPT, **_OF_VERSION, **_KEY, **_VALUE},
    HookEvent("prompt_version_tag", "deleted"): {**_PROMPT, **_OF_VERSION, **_KEY},
    HookEvent("prompt_alias", "created"): {**_PROMPT, **_ALIAS, **_OF_VERSION},
    HookEvent("prompt_alias", "deleted"): {**_PROMPT, **_ALIAS},
}
"""The events there are, each with the data that a test sends. MLflow's `budget_policy.exceeded` is
taken as well, and never happens here: budgets are the gateway's."""
_NEVER: Final = HookEvent("budget_policy", "exceeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Whom to tell of which events."""

    webhook_id: str
    name: str
    url: str
    events: tuple[HookEvent, ...]
    description: str = ""
    is_active: bool = True
    sealed_secret: str = ""
    """Encrypted; empty when deliveries are not signed."""
    created_at: Micros
    updated_at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one webhook."""

    delivery_id: str
    """The same at each attempt: receivers pass over what they have."""
    webhook_id: str
    body: str
    """What is sent, as JSON."""
    created_at: Micros
    attempts: int = 0
    due_at: Micros
    """When the next attempt may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A delivery that is not tried any more."""

    delivery: Delivery
    given_up_at: Micros
    reason: str
    """What its receiver answered last, or why there was no answer."""


@dataclass(frozen=True, slots=True)
class HookUrls:
    """Which URLs may be told anything: a service must not be made to call its neighbours."""

    schemes: Collection[str] = ("https",)
    private_hosts: Collection[str] = ()
    """Host names and addresses that may lie in private networks."""

    def check(self, url: str) -> str:
        """Return a URL unchanged that may be told; what its name resolves to is checked later.

        Raises:
            InvalidValue: It may not; the message says why.
        """
        try:
            split = urlsplit(url)
            host, _ = split.hostname, split.port
        except ValueError:
            raise _bad_url(f"Invalid webhook URL {url[:_LONGEST_URL]!r}") from None
        if len(url) > _LONGEST_URL or not url.isprintable() or " " in url:
            raise _bad_url(f"Webhook URL must have at most {_LONGEST_URL} printable characters")
        if split.scheme not in self.schemes:
            allowed = ", ".join(self.schemes)
            raise _bad_url(
                f"Invalid webhook URL scheme: {split.scheme!r}. Allowed schemes are: {allowed}."
            )
        if not host:
            raise _bad_url(f"Webhook URL must include a hostname: {url!r}")
        if split.username is not None or split.password is not None:
            raise _bad_url("Webhook URL must not include embedded credentials")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host.replace(".", "").isdigit():
                # Sockets take `127.1` and `2130706433` for 127.0.0.1, and ask no resolver.
                raise _bad_url(f"Webhook URL host {host!r} is no whole IP address") from None
            return url
        if host not in self.private_hosts and not is_public(address):
            raise _bad_url(
                f"Webhook URL must not resolve to a non-public IP address. {host!r} is one."
            )
        return url


def is_public(address: Address) -> bool:
    """Whether an address is reached over the Internet, also one that is wrapped in IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def check_webhook_name(name: str) -> str:
    """Return a webhook's name unchanged.

    Raises:
        InvalidValue: MLflow does not take it.
    """
    if _NAME.match(name) is None:
        raise InvalidValue(
            f"Webhook name {name[:100]!r} is invalid. It must start and end with a letter or "
            "digit, be less than 63 characters long, and contain only letters, digits, dots (.), "
            "underscores (_), and hyphens (-).",
            "name",
        )
    return name


def check_events(events: Collection[HookEvent]) -> tuple[HookEvent, ...]:
    """Return events, each once.

    Raises:
        InvalidValue: There are none, or MLflow has no such event.
    """
    if not events:
        raise InvalidValue("Webhook events must be a non-empty list", "events")
    for event in events:
        if event in EVENTS or event == _NEVER:
            continue
        actions = sorted(one.action for one in (*EVENTS, _NEVER) if one.entity == event.entity)
        raise InvalidValue(
            f"Invalid action '{event.action}' for entity '{event.entity}'. "
            f"Valid actions are: {actions}",
            "events",
        )
    return tuple(dict.fromkeys(events))


def signed_headers(delivery_id: str, seconds: int, body: str, secret: str) -> dict[str, str]:
    """Return the headers of a delivery: `v1,` and the HMAC-SHA256 of id, time and body in base64.

    Args:
        delivery_id: Its id.
        seconds: When it is sent, in seconds since 1970.
        body: What is sent.
        secret: The key; empty for no signature.
    """
    headers = {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": str(seconds),
    }
    if secret:
        signed = f"{delivery_id}.{seconds}.{body}".encode()
        digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        headers["X-MLflow-Signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _bad_url(message: str) -> InvalidValue:
    return InvalidValue(message, "url")
