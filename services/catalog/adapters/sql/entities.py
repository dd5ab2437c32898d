"""Governed objects in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog.adapters.sql.rows import entity_of, entity_row
from services.catalog.adapters.sql.tables import SECURABLES
from services.catalog.domain.securables import (
    METASTORE,
    Entity,
    EntityState,
    SecurableKey,
    SecurableType,
)
from services.catalog.errors import SecurableExists
from services.catalog.ports import CommittedChange

__all__ = ["SqlEntities"]

_T = SECURABLES.c


class SqlEntities:
    """The `Entities` port."""

    def __init__(self, session: AsyncSession, change: CommittedChange) -> None:
        self._session = session
        self._change = change

    async def get(self, key: SecurableKey, *, lock: bool = False) -> Entity | None:
        """The object in whatever state."""
        query = sa.select(SECURABLES).where(_T.type == int(key.type), _T.full_name == key.full_name)
        if lock:
            query = query.with_for_update()
        found = (await self._session.execute(query)).mappings().one_or_none()
        return None if found is None else entity_of(dict(found))

    async def add(self, entity: Entity) -> None:
        """Store a new object."""
        try:
            await self._session.execute(sa.insert(SECURABLES), entity_row(entity))
        except IntegrityError:
            raise SecurableExists(f"{entity.key} exists") from None
        self._change.keys.add(entity.key)

    async def replace(self, entity: Entity) -> None:
        """Store a new version of an object."""
        values = entity_row(entity)
        await self._session.execute(sa.update(SECURABLES).where(_T.id == entity.id).values(values))
        self._change.keys.add(entity.key)

    async def rename(self, entity: Entity, was: SecurableKey) -> None:
        """Store an object under its new key."""
        change = sa.update(SECURABLES).where(_T.id == entity.id).values(entity_row(entity))
        try:
            await self._session.execute(change)
        except IntegrityError:
            raise SecurableExists(f"{entity.key} exists") from None
        self._change.keys |= {was, entity.key}

    async def remove(self, entity: Entity) -> None:
        """Remove the object; what hangs from it goes by cascade."""
        await self._session.execute(sa.delete(SECURABLES).where(_T.id == entity.id))
        self._change.keys.add(entity.key)

    async def children(
        self, parent: SecurableKey, kind: SecurableType, *, after: str, limit: int
    ) -> list[Entity]:
        """Active objects of a kind right below `parent`."""
        return await self._all(
            sa.select(SECURABLES)
            .where(
                _T.parent_name == parent.full_name,
                _T.parent_type == int(parent.type),
                _T.type == int(kind),
                _T.state == int(EntityState.ACTIVE),
                _T.full_name > after,
            )
            .order_by(_T.full_name)
            .limit(limit)
        )

    async def subtree(self, key: SecurableKey) -> list[Entity]:
        """Everything below the object, deepest first."""
        if key == METASTORE:
            below: sa.ColumnElement[bool] = _T.type != int(SecurableType.METASTORE)
        elif key.type in (SecurableType.CATALOG, SecurableType.SCHEMA):
            # A range instead of LIKE: '/' is the character after '.', and names hold neither.
            name = key.full_name
            below = sa.and_(_T.full_name > f"{name}.", _T.full_name < f"{name}/")
        else:
            return []
        found = await self._all(sa.select(SECURABLES).where(below))
        return sorted(found, key=lambda e: (-len(e.key.chain), e.key.full_name, e.key.type))

    async def search(
        self,
        words: Sequence[str],
        kinds: Collection[SecurableType],
        *,
        after: tuple[str, int],
        limit: int,
    ) -> list[Entity]:
        """Active objects that hold every word."""
        query = sa.select(SECURABLES).where(
            _T.state == int(EntityState.ACTIVE),
            _T.type != int(SecurableType.METASTORE),
            sa.or_(
                _T.full_name > after[0],
                sa.and_(_T.full_name == after[0], _T.type > after[1]),
            ),
            *(_T.haystack.contains(word, autoescape=True) for word in words),
        )
        if kinds:
            query = query.where(_T.type.in_([int(kind) for kind in kinds]))
        return await self._all(query.order_by(_T.full_name, _T.type).limit(limit))

    async def unsettled(self) -> list[Entity]:
        """Objects being created or deleted."""
        return await self._all(sa.select(SECURABLES).where(_T.state != int(EntityState.ACTIVE)))

    async def owned_by(self, owner: str) -> list[Entity]:
        """Objects that a principal owns."""
        query = sa.select(SECURABLES).where(_T.owner == owner)
        return await self._all(query.order_by(_T.type, _T.full_name))

    async def _all(self, query: sa.Select[tuple[object, ...]]) -> list[Entity]:
        rows = (await self._session.execute(query)).mappings()
        return [entity_of(dict(row)) for row in rows]
