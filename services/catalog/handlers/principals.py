"""Principals and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.catalog.convert import events
from services.catalog.domain.principals import (
    Principal as PrincipalRecord,
)
from services.catalog.domain.principals import (
    PrincipalKind,
    check_principal_name,
    closure,
)
from services.catalog.errors import (
    GroupCycle,
    InvalidPrincipal,
    PrincipalExists,
    PrincipalNotFound,
    Protected,
    of_field,
)
from services.catalog.handlers.access_cache import AccessCache
from services.catalog.handlers.context import Context, Page
from services.catalog.handlers.guard import require_admin
from services.catalog.handlers.requests import RequestKey, recall, remember
from services.catalog.ports import Transaction
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal

__all__ = ["PrincipalView", "Principals", "principal_not_found"]


@dataclass(frozen=True, slots=True)
class PrincipalView:
    """A principal with every group that it is in."""

    principal: PrincipalRecord
    groups: frozenset[str] = frozenset()


def principal_not_found(name: str) -> PrincipalNotFound:
    """The answer for a principal that is not there."""
    return PrincipalNotFound(f"there is no principal {name}", metadata={"principal": name})


class Principals:
    """Use cases of principals. Everybody may see who there is; administrators change it."""

    def __init__(self, context: Context, cache: AccessCache) -> None:
        self._context = context
        self._cache = cache

    async def create(
        self,
        caller: Principal,
        name: str,
        kind: PrincipalKind,
        is_admin: bool,
        request: RequestKey,
    ) -> PrincipalView:
        """Create a principal.

        Raises:
            NotAllowed: The caller is no administrator.
            PrincipalExists: The name is taken.
            InvalidPrincipal: The name is not valid, or a group is to be an administrator.
        """
        require_admin(caller)
        check_principal_name(name)
        if is_admin and kind is not PrincipalKind.USER:
            text = "is for users; programs and groups are granted what they need"
            raise of_field(InvalidPrincipal, "principal.is_admin", text)
        async with self._context.store.write() as tx:
            if await recall(tx, caller, request) is None:
                if await tx.access.principal(name) is not None:
                    raise PrincipalExists(f"{name} exists", metadata={"principal": name})
                now = self._context.clock.now()
                await tx.access.put_principal(PrincipalRecord(name, kind, now, is_admin))
                await remember(tx, caller, request, name, self._context.clock)
                await tx.commit()
        return await self.get(name)

    async def get(self, name: str) -> PrincipalView:
        """Read a principal.

        Raises:
            PrincipalNotFound: There is none of that name.
        """
        found = await self._cache.principal(name)
        if found is None:
            raise principal_not_found(name)
        return PrincipalView(found, await self._cache.groups(name))

    async def page(self, after: str, size: int) -> Page[PrincipalView]:
        """Principals, by name."""
        async with self._context.store.read() as tx:
            found = await tx.access.principals(after=after, limit=size + 1)
        views = [PrincipalView(one, await self._cache.groups(one.name)) for one in found[:size]]
        return Page(tuple(views), views[-1] if len(found) > size else None)

    async def delete(self, caller: Principal, name: str) -> None:
        """Delete a principal with its tokens, grants and memberships.

        What it owned is the caller's from then on.

        Raises:
            NotAllowed: The caller is no administrator.
            PrincipalNotFound: There is none of that name.
            Protected: It is the caller or part of the installation.
        """
        require_admin(caller)
        async with self._context.store.write() as tx:
            found = await tx.access.principal(name, lock=True)
            if found is None:
                raise principal_not_found(name)
            if found.protected or name == caller.name:
                raise Protected(f"{name} is part of the installation or yourself")
            for entity in await tx.entities.owned_by(name):
                now = self._context.clock.now()
                await tx.entities.replace(
                    replace(entity, owner=caller.name, etag=new_etag(), updated_at=now)
                )
            await tx.access.remove_principal(name)
            # Its members, when it is a group, and whoever reached what it owned.
            tx.publish(events.access_changed(""))
            tx.publish(events.access_changed(name))
            await tx.commit()

    async def update_members(
        self, caller: Principal, group: str, add: Sequence[str], remove: Sequence[str]
    ) -> list[str]:
        """Change a group's direct members and return them all, in order.

        Raises:
            NotAllowed: The caller is no administrator.
            PrincipalNotFound: The group or a new member does not exist.
            InvalidPrincipal: It is no group.
            GroupCycle: The group would contain itself.
        """
        require_admin(caller)
        async with self._context.store.write() as tx:
            found = await tx.access.principal(group, lock=True)
            if found is None:
                raise principal_not_found(group)
            if found.kind is not PrincipalKind.GROUP:
                raise of_field(InvalidPrincipal, "group", "is no group")
            for name in remove:
                await tx.access.remove_member(group, name)
            await self._add(tx, group, add)
            changed = sorted({*add, *remove})
            kinds = [await tx.access.principal(name) for name in changed]
            if any(one is not None and one.kind is PrincipalKind.GROUP for one in kinds):
                changed = [""]
            for name in changed:
                tx.publish(events.access_changed(name))
            members = await tx.access.members(group)
            await tx.commit()
        return members

    async def _add(self, tx: Transaction, group: str, names: Sequence[str]) -> None:
        existing = await tx.access.existing(names)
        for name in names:
            if name not in existing:
                raise principal_not_found(name)
            memberships = await tx.access.memberships()
            if name == group or name in closure(group, memberships):
                raise GroupCycle(f"{group} is in {name}, so {name} cannot be in {group}")
            await tx.access.add_member(group, name)
