"""Principals, memberships, tokens and grants as they are stored."""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import SecurableKey
from services.catalog.errors import InvalidPrincipal, of_field
from tessera_kit.config import Secret
from tessera_kit.ids import new_id

__all__ = [
    "Grant",
    "Principal",
    "PrincipalKind",
    "Token",
    "check_principal_name",
    "closure",
    "new_token_secret",
    "token_digest",
    "token_id_of",
]

_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,128}\Z")
_TOKEN = re.compile(r"tsr_([A-Za-z0-9-]{4,64})_([A-Za-z0-9_-]{32,256})\Z")


class PrincipalKind(enum.IntEnum):
    """The numbers are those of `tessera.catalog.v1.PrincipalKind`."""

    USER = 1
    SERVICE = 2
    GROUP = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone or something that privileges can be granted to."""

    name: str
    kind: PrincipalKind
    created_at: datetime
    is_admin: bool = False
    protected: bool = False
    """Part of the installation: the first administrator and the platform's services."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret."""

    token_id: str
    principal: str
    sha256: bytes
    """Of the whole token text."""
    comment: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked: bool = False
    bootstrap: bool = False
    """Read from a file when the service started."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One privilege granted directly on an object."""

    key: SecurableKey
    principal: str
    privilege: Privilege
    granted_by: str
    granted_at: datetime


def check_principal_name(name: str, field: str = "principal.name") -> str:
    """Return the name when a principal may have it.

    Raises:
        InvalidPrincipal: It may not.
    """
    if not _NAME.match(name):
        raise of_field(InvalidPrincipal, field, "must be 1 to 128 letters, digits and _ . @ + -")
    return name


def closure(name: str, parents: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Every group that a principal is in, through groups too; cycles end the walk."""
    found: set[str] = set()
    waiting = list(parents.get(name, ()))
    while waiting:
        group = waiting.pop()
        if group not in found:
            found.add(group)
            waiting.extend(parents.get(group, ()))
    return frozenset(found)


def new_token_secret() -> tuple[str, Secret]:
    """A new token's id and its whole text `tsr_<id>_<secret>`, with 32 random bytes."""
    token_id = new_id().replace("-", "")
    return token_id, Secret(f"tsr_{token_id}_{secrets.token_urlsafe(32)}")


def token_digest(token: str) -> bytes:
    """What is kept of a token: the SHA-256 of its text."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_id_of(token: Secret) -> str | None:
    """The id inside a token's text; None when it is no token of ours."""
    match = _TOKEN.match(token.reveal())
    return match[1] if match else None
