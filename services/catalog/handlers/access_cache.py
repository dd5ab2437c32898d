"""Keeps in memory what decisions need, dropped when a commit changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from services.catalog.domain.access import AccessNode
from services.catalog.domain.principals import Principal, PrincipalKind, closure
from services.catalog.domain.securables import SecurableKey
from services.catalog.ports import CommittedChange, Store
from tessera_kit.rpc import identity

__all__ = ["AccessCache", "KnownToken"]

_MOST_NODES = 200_000
_MOST_TOKENS = 50_000
_KINDS = {
    PrincipalKind.USER: identity.PrincipalKind.USER,
    PrincipalKind.GROUP: identity.PrincipalKind.USER,
    PrincipalKind.SERVICE: identity.PrincipalKind.SERVICE,
}


@dataclass(frozen=True, slots=True)
class KnownToken:
    """Whose a token is, and until when."""

    principal: identity.Principal
    expires_at: datetime | None


class AccessCache:
    """Read-through caches of owners, grants, principals and tokens.

    A load that began before a commit and ends after it is not kept, so what is kept is never older
    than the last commit of this process. Where other processes write to the store, run `follow`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._generation = 0
        self._nodes: dict[SecurableKey, AccessNode] = {}
        self._principals: dict[str, Principal] = {}
        self._memberships: dict[str, set[str]] | None = None
        self._tokens: dict[bytes, KnownToken] = {}
        store.on_commit(self._drop)

    async def nodes(self, keys: Collection[SecurableKey]) -> dict[SecurableKey, AccessNode]:
        """Owners and grants of those of the objects that exist."""
        found = {key: node for key in keys if (node := self._nodes.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            generation = self._generation
            async with self._store.read() as tx:
                loaded = await tx.access.nodes(missing)
            found |= loaded
            if generation == self._generation:
                if len(self._nodes) + len(loaded) > _MOST_NODES:
                    self._nodes.clear()
                self._nodes |= loaded
        return found

    async def principal(self, name: str) -> Principal | None:
        """A principal."""
        found = self._principals.get(name)
        if found is None:
            generation = self._generation
            async with self._store.read() as tx:
                found = await tx.access.principal(name)
            if found is not None and generation == self._generation:
                self._principals[name] = found
        return found

    async def caller(self, name: str) -> identity.Principal | None:
        """A principal as the identity of a call, with the groups that it is in."""
        principal = await self.principal(name)
        if principal is None:
            return None
        groups = await self.groups(name)
        kind = _KINDS[principal.kind]
        return identity.Principal(name, kind, groups, principal.is_admin)

    async def groups(self, name: str) -> frozenset[str]:
        """Every group that a principal is in, nested ones included."""
        memberships = self._memberships
        if memberships is None:
            generation = self._generation
            async with self._store.read() as tx:
                memberships = await tx.access.memberships()
            if generation == self._generation:
                self._memberships = memberships
        return closure(name, memberships)

    async def token(self, sha256: bytes) -> KnownToken | None:
        """Whose token it is; None for one unknown or revoked. Expiry is the caller's to check."""
        found = self._tokens.get(sha256)
        if found is None:
            generation = self._generation
            async with self._store.read() as tx:
                token = await tx.access.token_by_digest(sha256)
            if token is None or token.revoked:
                return None
            caller = await self.caller(token.principal)
            if caller is None:
                return None
            found = KnownToken(caller, token.expires_at)
            if generation == self._generation:
                if len(self._tokens) >= _MOST_TOKENS:
                    self._tokens.clear()
                self._tokens[sha256] = found
        return found

    async def follow(self, seconds: float = 0.25) -> None:
        """Drop everything whenever another process changed something; runs until cancelled."""
        seen = await self._store.revision()
        while True:
            await asyncio.sleep(seconds)
            now = await self._store.revision()
            if now != seen:
                seen = now
                self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._generation += 1
        self._nodes.clear()
        self._principals.clear()
        self._tokens.clear()
        self._memberships = None

    def _drop(self, change: CommittedChange) -> None:
        self._generation += 1
        for key in change.keys:
            self._nodes.pop(key, None)
        if change.principals:
            self._principals.clear()
            self._memberships = None
        if change.principals or change.tokens:
            self._tokens.clear()
