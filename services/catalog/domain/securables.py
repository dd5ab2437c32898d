"""Governed objects: their kinds, names, place in the tree and common fields."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from services.catalog.domain.details import Details
from services.catalog.errors import InvalidSecurable, of_field
from tessera_kit.names import parse_full_name

__all__ = ["METASTORE", "Entity", "EntityState", "SecurableKey", "SecurableType"]


class SecurableType(enum.IntEnum):
    """An object's kind; the numbers are those of `tessera.catalog.v1.SecurableType`."""

    METASTORE = 1
    CATALOG = 2
    SCHEMA = 3
    TABLE = 4
    VOLUME = 5
    MODEL = 6
    FUNCTION = 7
    ENDPOINT = 8
    EXPERIMENT = 9
    JOB = 10
    MONITOR = 11

    @property
    def label(self) -> str:
        """The kind in words, for messages."""
        return self.name.lower()


IN_SCHEMA = frozenset(
    {SecurableType.TABLE, SecurableType.VOLUME, SecurableType.MODEL, SecurableType.FUNCTION}
)
"""Kinds that hang from a schema."""
FLAT = frozenset(
    {
        SecurableType.ENDPOINT,
        SecurableType.EXPERIMENT,
        SecurableType.JOB,
        SecurableType.MONITOR,
    }
)
"""Kinds that hang from the metastore and are owned by other services."""

_PARTS = {
    SecurableType.CATALOG: 1,
    SecurableType.SCHEMA: 2,
    **dict.fromkeys(IN_SCHEMA, 3),
    **dict.fromkeys(FLAT, 1),
}
_ROOT = "metastore"


@dataclass(frozen=True, slots=True, order=True)
class SecurableKey:
    """Which object: its kind and full name."""

    type: SecurableType
    full_name: str

    @classmethod
    def parse(cls, kind: int, full_name: str, field: str = "securable") -> SecurableKey:
        """Check a kind and name from outside.

        Raises:
            InvalidSecurable: The kind is not known, or the metastore is named otherwise.
            tessera_kit.names.InvalidName: The name does not fit the kind.
        """
        try:
            securable_type = SecurableType(kind)
        except ValueError:
            raise of_field(InvalidSecurable, f"{field}.type", "is not a known kind") from None
        if securable_type is SecurableType.METASTORE:
            if full_name != _ROOT:
                text = f'must be "{_ROOT}" for the metastore'
                raise of_field(InvalidSecurable, f"{field}.full_name", text)
        else:
            parse_full_name(full_name, _PARTS[securable_type], f"{field}.full_name")
        return cls(securable_type, full_name)

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.full_name.rpartition(".")[2]

    @property
    def parent(self) -> SecurableKey | None:
        """The object that this one hangs from; None for the metastore."""
        if self.type is SecurableType.METASTORE:
            return None
        if self.type in IN_SCHEMA:
            return SecurableKey(SecurableType.SCHEMA, self.full_name.rpartition(".")[0])
        if self.type is SecurableType.SCHEMA:
            return SecurableKey(SecurableType.CATALOG, self.full_name.partition(".")[0])
        return METASTORE

    @property
    def container(self) -> SecurableKey:
        """The object that this one is made in; the metastore for itself."""
        return self.parent or METASTORE

    @property
    def chain(self) -> tuple[SecurableKey, ...]:
        """This object and its ancestors, up to the metastore."""
        found = [self]
        while (parent := found[-1].parent) is not None:
            found.append(parent)
        return tuple(found)

    def __str__(self) -> str:
        return f"{self.type.label} {self.full_name}"


METASTORE = SecurableKey(SecurableType.METASTORE, _ROOT)
"""The root of everything."""


class EntityState(enum.IntEnum):
    """Whether an object and what it keeps in engines are in step."""

    ACTIVE = 1
    """Both are there."""
    CREATING = 2
    """Its name is taken; its storage may be there. Nobody sees it."""
    DELETING = 3
    """It is gone for everybody; its storage may still be there."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One governed object of any kind."""

    id: str
    """UUIDv7; a later object of the same name has another."""
    key: SecurableKey
    owner: str
    """Name of the principal that owns it."""
    comment: str
    etag: str
    """Changes with every change."""
    created_at: datetime
    updated_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    state: EntityState = EntityState.ACTIVE
    details: Details = None
    """What only its kind has; None for kinds that have nothing more."""

    @property
    def active(self) -> bool:
        """Whether anybody may see it."""
        return self.state is EntityState.ACTIVE
