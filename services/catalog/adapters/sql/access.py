"""Principals, memberships, tokens and grants in SQL."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog.adapters.sql.rows import (
    micros,
    moment,
    principal_of,
    token_of,
    token_row,
)
from services.catalog.adapters.sql.tables import GRANTS, MEMBERS, PRINCIPALS, SECURABLES, TOKENS
from services.catalog.adapters.sql.upsert import insert_new, upsert
from services.catalog.domain.access import AccessNode
from services.catalog.domain.principals import Grant, Principal, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, EntityState, SecurableKey, SecurableType
from services.catalog.ports import CommittedChange

__all__ = ["SqlAccess"]

_CHUNK = 400


class SqlAccess:
    """The `AccessRecords` port."""

    def __init__(self, session: AsyncSession, change: CommittedChange) -> None:
        self._session = session
        self._change = change

    async def principal(self, name: str, *, lock: bool = False) -> Principal | None:
        """A principal."""
        query = sa.select(PRINCIPALS).where(PRINCIPALS.c.name == name)
        if lock:
            query = query.with_for_update()
        found = (await self._session.execute(query)).mappings().one_or_none()
        return None if found is None else principal_of(dict(found))

    async def principals(self, *, after: str, limit: int) -> list[Principal]:
        """Principals in order."""
        query = (
            sa.select(PRINCIPALS)
            .where(PRINCIPALS.c.name > after)
            .order_by(PRINCIPALS.c.name)
            .limit(limit)
        )
        rows = (await self._session.execute(query)).mappings()
        return [principal_of(dict(row)) for row in rows]

    async def existing(self, names: Collection[str]) -> set[str]:
        """Those of the names that are principals."""
        query = sa.select(PRINCIPALS.c.name).where(PRINCIPALS.c.name.in_(list(names)))
        return set((await self._session.scalars(query)).all())

    async def put_principal(self, principal: Principal) -> None:
        """Store a principal."""
        row = {
            "name": principal.name,
            "kind": int(principal.kind),
            "is_admin": principal.is_admin,
            "protected": principal.protected,
            "created_at": micros(principal.created_at),
        }
        await self._session.execute(upsert(self._session, PRINCIPALS, row))
        self._change.principals = True

    async def remove_principal(self, name: str) -> None:
        """Remove a principal; what it holds goes by cascade."""
        held = (
            sa.select(SECURABLES.c.type, SECURABLES.c.full_name)
            .join(GRANTS, GRANTS.c.securable_id == SECURABLES.c.id)
            .where(GRANTS.c.principal == name)
            .distinct()
        )
        for row in (await self._session.execute(held)).all():
            self._change.keys.add(SecurableKey(SecurableType(row.type), row.full_name))
        await self._session.execute(sa.delete(PRINCIPALS).where(PRINCIPALS.c.name == name))
        self._change.principals = self._change.tokens = True

    async def memberships(self) -> dict[str, set[str]]:
        """The groups of each principal."""
        found: dict[str, set[str]] = {}
        for row in (await self._session.execute(sa.select(MEMBERS))).all():
            found.setdefault(row.member, set()).add(row.group_name)
        return found

    async def members(self, group: str) -> list[str]:
        """Direct members."""
        query = sa.select(MEMBERS.c.member).where(MEMBERS.c.group_name == group)
        return list((await self._session.scalars(query.order_by(MEMBERS.c.member))).all())

    async def add_member(self, group: str, member: str) -> None:
        """Add a member."""
        row = {"group_name": group, "member": member}
        await self._session.execute(insert_new(self._session, MEMBERS, row))
        self._change.principals = True

    async def remove_member(self, group: str, member: str) -> None:
        """Remove a member."""
        await self._session.execute(
            sa.delete(MEMBERS).where(MEMBERS.c.group_name == group, MEMBERS.c.member == member)
        )
        self._change.principals = True

    async def token(self, token_id: str) -> Token | None:
        """A token by its id."""
        return await self._token(TOKENS.c.token_id == token_id)

    async def token_by_digest(self, sha256: bytes) -> Token | None:
        """A token by its digest."""
        return await self._token(TOKENS.c.sha256 == sha256)

    async def _token(self, condition: sa.ColumnElement[bool]) -> Token | None:
        query = sa.select(TOKENS).where(condition)
        found = (await self._session.execute(query)).mappings().one_or_none()
        return None if found is None else token_of(dict(found))

    async def tokens(self, principal: str, *, below: str | None, limit: int) -> list[Token]:
        """A principal's tokens, the newest first."""
        query = sa.select(TOKENS).where(TOKENS.c.principal == principal)
        if below is not None:
            query = query.where(TOKENS.c.token_id < below)
        query = query.order_by(TOKENS.c.token_id.desc()).limit(limit)
        return [token_of(dict(row)) for row in (await self._session.execute(query)).mappings()]

    async def bootstrap_tokens(self, principal: str) -> list[Token]:
        """The tokens that came from files."""
        query = sa.select(TOKENS).where(TOKENS.c.principal == principal, TOKENS.c.bootstrap)
        return [token_of(dict(row)) for row in (await self._session.execute(query)).mappings()]

    async def put_token(self, token: Token) -> None:
        """Store a token."""
        await self._session.execute(upsert(self._session, TOKENS, token_row(token)))
        self._change.tokens = True

    async def grants(self, key: SecurableKey) -> list[Grant]:
        """Direct grants on an object."""
        query = (
            sa.select(GRANTS)
            .join(SECURABLES, GRANTS.c.securable_id == SECURABLES.c.id)
            .where(SECURABLES.c.type == int(key.type), SECURABLES.c.full_name == key.full_name)
            .order_by(GRANTS.c.principal, GRANTS.c.privilege)
        )
        return [
            Grant(
                key,
                row.principal,
                Privilege(row.privilege),
                row.granted_by,
                moment(row.granted_at),
            )
            for row in (await self._session.execute(query)).all()
        ]

    async def add_grant(self, entity: Entity, grant: Grant) -> None:
        """Grant."""
        row = {
            "securable_id": entity.id,
            "principal": grant.principal,
            "privilege": int(grant.privilege),
            "granted_by": grant.granted_by,
            "granted_at": micros(grant.granted_at),
        }
        await self._session.execute(insert_new(self._session, GRANTS, row))
        self._change.keys.add(entity.key)

    async def remove_grant(self, entity: Entity, principal: str, privilege: Privilege) -> bool:
        """Revoke."""
        result = await self._session.execute(
            sa.delete(GRANTS).where(
                GRANTS.c.securable_id == entity.id,
                GRANTS.c.principal == principal,
                GRANTS.c.privilege == int(privilege),
            )
        )
        self._change.keys.add(entity.key)
        return cast("sa.CursorResult[Any]", result).rowcount > 0

    async def nodes(self, keys: Collection[SecurableKey]) -> dict[SecurableKey, AccessNode]:
        """What counts for decisions."""
        by_type: dict[SecurableType, list[str]] = {}
        for key in keys:
            by_type.setdefault(key.type, []).append(key.full_name)
        found: dict[SecurableKey, AccessNode] = {}
        for kind, names in by_type.items():
            for start in range(0, len(names), _CHUNK):
                found |= await self._nodes(kind, names[start : start + _CHUNK])
        return found

    async def _nodes(self, kind: SecurableType, names: list[str]) -> dict[SecurableKey, AccessNode]:
        query = (
            sa.select(
                SECURABLES.c.full_name, SECURABLES.c.owner, GRANTS.c.principal, GRANTS.c.privilege
            )
            .outerjoin(GRANTS, GRANTS.c.securable_id == SECURABLES.c.id)
            .where(
                SECURABLES.c.type == int(kind),
                SECURABLES.c.full_name.in_(names),
                SECURABLES.c.state == int(EntityState.ACTIVE),
            )
            .order_by(SECURABLES.c.full_name)
        )
        rows = (await self._session.execute(query)).all()
        found: dict[SecurableKey, AccessNode] = {}
        for (name, owner), group in groupby(rows, key=lambda row: (row.full_name, row.owner)):
            held: dict[str, set[Privilege]] = {}
            for row in group:
                if row.principal is not None:
                    held.setdefault(row.principal, set()).add(Privilege(row.privilege))
            key = SecurableKey(kind, name)
            grants = {principal: frozenset(privileges) for principal, privileges in held.items()}
            found[key] = AccessNode(key, owner, grants)
        return found
