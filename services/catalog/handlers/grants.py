"""Grants on objects, and what they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.catalog.convert import events
from services.catalog.domain.access import EffectivePrivilege, effective
from services.catalog.domain.principals import Grant
from services.catalog.domain.privileges import Privilege, check_grantable
from services.catalog.domain.securables import Entity, SecurableKey
from services.catalog.handlers.access_cache import AccessCache
from services.catalog.handlers.context import Context, Page, active
from services.catalog.handlers.guard import subject_of
from services.catalog.handlers.principals import principal_not_found
from services.catalog.ports import Transaction
from tessera_kit.rpc.identity import Principal

__all__ = ["GrantChange", "Grants"]

_ALL = Privilege.ALL_PRIVILEGES


@dataclass(frozen=True, slots=True)
class GrantChange:
    """A privilege to grant to somebody, or to take from them."""

    principal: str
    privilege: Privilege


class Grants:
    """Use cases of grants."""

    def __init__(self, context: Context, cache: AccessCache) -> None:
        self._context = context
        self._cache = cache

    async def update(
        self,
        caller: Principal,
        key: SecurableKey,
        add: Sequence[GrantChange],
        remove: Sequence[GrantChange],
    ) -> list[Grant]:
        """Revoke and grant privileges on an object, and return all direct grants.

        Revoking ALL PRIVILEGES revokes each privilege that it stands for as well. What is both
        revoked and granted is granted.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not manage the object.
            InvalidGrant: A privilege does not apply to the object's kind.
            PrincipalNotFound: A privilege is granted to nobody.
        """
        for index, change in enumerate(add):
            check_grantable(key.type, change.privilege, f"add[{index}].privilege")
        await self._context.guard.require(caller, key, Privilege.MANAGE)
        async with self._context.store.write() as tx:
            entity = await active(tx, key, lock=True)
            existing = await tx.access.existing({change.principal for change in add})
            for change in remove:
                await _revoke(tx, entity, change)
            for change in add:
                if change.principal not in existing:
                    raise principal_not_found(change.principal)
                now = self._context.clock.now()
                grant = Grant(key, change.principal, change.privilege, caller.name, now)
                await tx.access.add_grant(entity, grant)
            for principal in sorted({change.principal for change in (*add, *remove)}):
                tx.publish(events.access_changed(principal, key))
            found = await tx.access.grants(key)
            await tx.commit()
        return _shown(found)

    async def page(
        self,
        caller: Principal,
        key: SecurableKey,
        principal: str,
        after: tuple[str, int],
        size: int,
    ) -> Page[Grant]:
        """Direct grants on an object, by principal and privilege.

        ALL PRIVILEGES stands alone for what it implies; MANAGE is shown beside it. Who may not
        manage the object is shown the grants to itself and its groups.

        Raises:
            SecurableNotFound: The object is not there, or not for the caller.
        """
        guard = self._context.guard
        await guard.require_visible(caller, key)
        manages = await guard.holds(caller, key, Privilege.MANAGE)
        async with self._context.store.read() as tx:
            found = await tx.access.grants(key)
        own = subject_of(caller).identities
        items = [
            grant
            for grant in _shown(found)
            if (manages or grant.principal in own)
            and (not principal or grant.principal == principal)
            and (grant.principal, int(grant.privilege)) > after
        ]
        page = tuple(items[:size])
        return Page(page, page[-1] if len(items) > size else None)

    async def effective(
        self, caller: Principal, key: SecurableKey, principal: str
    ) -> list[EffectivePrivilege]:
        """What a principal may do with an object, and why.

        Raises:
            SecurableNotFound: The object is not there, or not for the caller.
            PrivilegeMissing: It is about another and the caller may not manage the object.
            PrincipalNotFound: There is no such principal.
        """
        guard = self._context.guard
        if not principal or principal == caller.name:
            await guard.require_visible(caller, key)
            subject = caller
        else:
            await guard.require(caller, key, Privilege.MANAGE)
            found = await self._cache.caller(principal)
            if found is None:
                raise principal_not_found(principal)
            subject = found
        return effective(subject_of(subject), await guard.chain(key))


async def _revoke(tx: Transaction, entity: Entity, change: GrantChange) -> None:
    privileges = [change.privilege]
    if change.privilege is _ALL:
        privileges = [privilege for privilege in Privilege if privilege is not Privilege.MANAGE]
    for privilege in privileges:
        await tx.access.remove_grant(entity, change.principal, privilege)


def _shown(grants: Sequence[Grant]) -> list[Grant]:
    everything = {grant.principal for grant in grants if grant.privilege is _ALL}
    return [
        grant
        for grant in grants
        if grant.principal not in everything or grant.privilege in (_ALL, Privilege.MANAGE)
    ]
