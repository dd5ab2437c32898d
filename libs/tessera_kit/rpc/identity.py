"""Who calls: principals, the door that tells them apart, and the one of the call that runs now."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from tessera_kit.errors import Unauthenticated

__all__ = [
    "Authenticator",
    "InvalidCredentials",
    "MissingCredentials",
    "Principal",
    "PrincipalKind",
    "bearer_token",
    "current_principal",
    "principal_scope",
]

_BEARER = "bearer "
_LONGEST_TOKEN = 4096


class MissingCredentials(Unauthenticated):
    """The call has no `authorization: Bearer ...` metadata."""

    reason = "MISSING_CREDENTIALS"


class InvalidCredentials(Unauthenticated):
    """The token is malformed, unknown, expired or revoked; callers are not told which."""

    reason = "INVALID_CREDENTIALS"


class PrincipalKind(enum.Enum):
    """What a principal is."""

    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone or something that calls."""

    name: str
    """Unique name."""
    kind: PrincipalKind = PrincipalKind.USER
    """A person or a program of the platform."""
    groups: frozenset[str] = field(default_factory=frozenset)
    """Names of the groups it is in, nested ones included."""
    is_admin: bool = False
    """Whether it passes every check."""


class Authenticator(Protocol):
    """Tells whose token it is."""

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of the token.

        Raises:
            Unauthenticated: The token is unknown, expired or revoked.
            Unavailable: It cannot be told now.
        """


_current: ContextVar[Principal | None] = ContextVar("tessera_principal", default=None)


def current_principal() -> Principal:
    """Return the principal of the call that runs now.

    Raises:
        MissingCredentials: No call runs in this context.
    """
    principal = _current.get()
    if principal is None:
        raise MissingCredentials("no caller is known here")
    return principal


@contextmanager
def principal_scope(principal: Principal) -> Iterator[Principal]:
    """Make `principal` the current one within a `with` block, for work outside a call."""
    token = _current.set(principal)
    try:
        yield principal
    finally:
        _current.reset(token)


def bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the token of a call's metadata.

    Raises:
        MissingCredentials: There is no `authorization` entry.
        InvalidCredentials: It is not a bearer token of sensible length.
    """
    value = next((value for key, value in metadata if key == "authorization"), None)
    if value is None:
        raise MissingCredentials("send a token as metadata `authorization: Bearer <token>`")
    if not isinstance(value, str) or len(value) > _LONGEST_TOKEN:
        raise InvalidCredentials("the authorization metadata is not a bearer token")
    token = value[len(_BEARER) :].strip()
    if value[: len(_BEARER)].lower() != _BEARER or not token:
        raise InvalidCredentials("the authorization metadata is not a bearer token")
    return token


def enter_call(principal: Principal) -> None:
    """Make `principal` the current one of this task; each call runs in a task of its own."""
    _current.set(principal)
