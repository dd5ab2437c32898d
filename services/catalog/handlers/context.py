"""What use cases share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from services.catalog.domain.changes import Draft
from services.catalog.domain.details import Details
from services.catalog.domain.securables import Entity, EntityState, SecurableKey
from services.catalog.errors import Busy, InvalidPrincipal, SecurableExists, StaleEtag, of_field
from services.catalog.handlers.guard import Guard, not_found
from services.catalog.ports import Store, Transaction
from tessera_kit.clock import Clock
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = [
    "Context",
    "Page",
    "active",
    "busy",
    "check_etag",
    "check_free",
    "new_entity",
    "visible_page",
]

Item = TypeVar("Item")
_CHUNK = 500
_MOST_CHUNKS = 20


@dataclass(frozen=True, slots=True)
class Context:
    """Store, guard and clock."""

    store: Store
    guard: Guard
    clock: Clock


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the last one looked at when there may be more after it."""

    items: tuple[Item, ...]
    last: Item | None = None


async def active(tx: Transaction, key: SecurableKey, *, lock: bool = False) -> Entity:
    """The object as it is now.

    Raises:
        SecurableNotFound: There is none, or none yet, or none any more.
    """
    entity = await tx.entities.get(key, lock=lock)
    if entity is None or not entity.active:
        raise not_found(key)
    return entity


def check_etag(current: str, sent: str) -> None:
    """Let pass a change of what was read; an empty `sent` changes whatever is there.

    Raises:
        StaleEtag: It changed since.
    """
    if sent and sent != current:
        raise StaleEtag("it changed since you read it; read it again", metadata={"etag": current})


async def check_free(tx: Transaction, key: SecurableKey) -> Entity | None:
    """The object that holds a name without anybody seeing it; None when the name is free.

    Raises:
        SecurableExists: The name is taken.
    """
    entity = await tx.entities.get(key, lock=True)
    if entity is not None and entity.active:
        metadata = {"type": key.type.name, "full_name": key.full_name}
        raise SecurableExists(f"{key} exists", metadata=metadata)
    return entity


async def new_entity(
    tx: Transaction,
    caller: Principal,
    key: SecurableKey,
    draft: Draft,
    now: datetime,
    *,
    details: Details = None,
    state: EntityState = EntityState.ACTIVE,
) -> Entity:
    """A new object of the caller's, or of whom an administrator or service names.

    Raises:
        InvalidPrincipal: The owner named is no principal.
    """
    owner = caller.name
    if draft.owner and caller.is_admin:
        owner = draft.owner
        if await tx.access.principal(owner) is None:
            raise of_field(InvalidPrincipal, "owner", "is no principal")
    return Entity(
        id=new_id(),
        key=key,
        owner=owner,
        comment=draft.comment,
        etag=new_etag(),
        created_at=now,
        updated_at=now,
        tags=dict(draft.tags),
        state=state,
        details=details,
    )


async def visible_page(
    fetch: Callable[[Entity | None, int], Awaitable[list[Entity]]],
    allowed: Callable[[Sequence[Entity]], Awaitable[set[SecurableKey]]],
    size: int,
) -> Page[Entity]:
    """Fill a page with what the caller may see.

    Looks at a bounded number of objects, so a page may hold fewer than `size` and still not be the
    last one.

    Args:
        fetch: Objects after a given one, at most so many, in the listing's order.
        allowed: Which of them the caller may see.
        size: Most items of the page.
    """
    items: list[Entity] = []
    last: Entity | None = None
    for _ in range(_MOST_CHUNKS):
        chunk = await fetch(last, max(size + 1, _CHUNK) if items or last else size + 1)
        seen = await allowed(chunk)
        for entity in chunk:
            if entity.key in seen:
                if len(items) == size:
                    return Page(tuple(items), last)
                items.append(entity)
            last = entity
        if len(chunk) < size + 1:
            return Page(tuple(items))
    return Page(tuple(items), last)


def busy(key: SecurableKey) -> Busy:
    """The answer while an object of that name is being created or deleted."""
    return Busy(f"{key} is being created or deleted now; try again", retry_after=1.0)
