"""Stands before every use case: may the caller, and may it know that the object is there?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.catalog.domain.access import AccessNode, Decision, Subject, decide, visible
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import SecurableKey
from services.catalog.errors import NotAllowed, PrivilegeMissing, SecurableNotFound
from services.catalog.handlers.access_cache import AccessCache
from tessera_kit.rpc.identity import Principal, PrincipalKind

__all__ = ["Guard", "not_found", "require_admin", "require_platform", "subject_of"]


def subject_of(principal: Principal) -> Subject:
    """The principal as decisions see it."""
    return Subject(principal.name, principal.groups, principal.is_admin)


def not_found(key: SecurableKey) -> SecurableNotFound:
    """The answer for what is not there and for what the caller may not see: the same."""
    return SecurableNotFound(
        f"there is no {key}, or you may not see it",
        metadata={"type": key.type.name, "full_name": key.full_name},
    )


def require_admin(caller: Principal) -> None:
    """Let administrators pass.

    Raises:
        NotAllowed: The caller is none.
    """
    if not caller.is_admin:
        raise NotAllowed("only administrators may do this")


def require_platform(caller: Principal) -> None:
    """Let the platform's own services pass.

    Raises:
        NotAllowed: The caller is a user, or a program that users made.
    """
    if not (caller.is_admin and caller.kind is PrincipalKind.SERVICE):
        raise NotAllowed("only the platform's services may do this")


class Guard:
    """Decides by the access cache."""

    def __init__(self, cache: AccessCache) -> None:
        self._cache = cache

    async def chains(
        self, keys: Collection[SecurableKey]
    ) -> dict[SecurableKey, tuple[AccessNode, ...]]:
        """The objects that exist, with their ancestors; none that has a missing ancestor."""
        wanted = {part for key in keys for part in key.chain}
        nodes = await self._cache.nodes(wanted)
        return {
            key: tuple(nodes[part] for part in key.chain)
            for key in keys
            if all(part in nodes for part in key.chain)
        }

    async def chain(self, key: SecurableKey) -> tuple[AccessNode, ...]:
        """An object with its ancestors.

        Raises:
            SecurableNotFound: It does not exist.
        """
        found = await self.chains([key])
        if key not in found:
            raise not_found(key)
        return found[key]

    async def require_visible(self, caller: Principal, key: SecurableKey) -> None:
        """Let pass who may know that the object exists.

        Raises:
            SecurableNotFound: It does not, or the caller may not know.
        """
        if not visible(subject_of(caller), await self.chain(key)):
            raise not_found(key)

    async def require(self, caller: Principal, key: SecurableKey, privilege: Privilege) -> None:
        """Let pass who may exercise the privilege on the object.

        Raises:
            SecurableNotFound: It does not exist, or the caller may not know.
            PrivilegeMissing: It does; the message says what is missing.
        """
        await self.require_any(caller, key, [privilege])

    async def require_any(
        self, caller: Principal, key: SecurableKey, privileges: Sequence[Privilege]
    ) -> None:
        """As `require`, for who holds one of several privileges."""
        chain = await self.chain(key)
        subject = subject_of(caller)
        decisions = [decide(subject, chain, privilege) for privilege in privileges]
        if any(decisions):
            return
        if not visible(subject, chain):
            raise not_found(key)
        missing = decisions[0].text
        raise PrivilegeMissing(
            f"{caller.name} needs {missing}",
            metadata={"type": key.type.name, "full_name": key.full_name, "missing": missing},
        )

    async def holds(self, caller: Principal, key: SecurableKey, privilege: Privilege) -> bool:
        """Whether the object exists and the caller may exercise the privilege on it."""
        chain = (await self.chains([key])).get(key)
        return chain is not None and bool(decide(subject_of(caller), chain, privilege))

    async def visible(self, caller: Principal, keys: Collection[SecurableKey]) -> set[SecurableKey]:
        """Those of the objects that exist and that the caller may know of."""
        subject = subject_of(caller)
        chains = await self.chains(keys)
        return {key for key, chain in chains.items() if visible(subject, chain)}

    async def decide(
        self, subject: Subject, key: SecurableKey, privilege: Privilege
    ) -> Decision | None:
        """The decision on one question; None when there is no such object."""
        chain = (await self.chains([key])).get(key)
        return None if chain is None else decide(subject, chain, privilege)
