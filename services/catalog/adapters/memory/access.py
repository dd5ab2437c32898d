"""Principals, memberships, tokens and grants in memory."""

from __future__ import annotations

from collections.abc import Collection

from services.catalog.adapters.memory.state import State
from services.catalog.domain.access import AccessNode
from services.catalog.domain.principals import Grant, Principal, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, SecurableKey
from services.catalog.ports import CommittedChange

__all__ = ["MemoryAccess"]


class MemoryAccess:
    """The `AccessRecords` port."""

    def __init__(self, state: State, change: CommittedChange) -> None:
        self._state = state
        self._change = change

    async def principal(self, name: str, *, lock: bool = False) -> Principal | None:
        """A principal."""
        return self._state.principals.get(name)

    async def principals(self, *, after: str, limit: int) -> list[Principal]:
        """Principals in order."""
        names = sorted(name for name in self._state.principals if name > after)
        return [self._state.principals[name] for name in names[:limit]]

    async def existing(self, names: Collection[str]) -> set[str]:
        """Those of the names that are principals."""
        return set(names) & self._state.principals.keys()

    async def put_principal(self, principal: Principal) -> None:
        """Store a principal."""
        self._state.principals[principal.name] = principal
        self._change.principals = True

    async def remove_principal(self, name: str) -> None:
        """Remove a principal with what it holds."""
        state = self._state
        state.principals.pop(name, None)
        for pair in [pair for pair in state.members if name in pair]:
            del state.members[pair]
        for token in [token for token in state.tokens.values() if token.principal == name]:
            del state.tokens[token.token_id]
        for key in [key for key in state.grants if key[1] == name]:
            self._change.keys.add(state.grants.pop(key).key)
        self._change.principals = self._change.tokens = True

    async def memberships(self) -> dict[str, set[str]]:
        """The groups of each principal."""
        found: dict[str, set[str]] = {}
        for group, member in self._state.members:
            found.setdefault(member, set()).add(group)
        return found

    async def members(self, group: str) -> list[str]:
        """Direct members."""
        return sorted(member for other, member in self._state.members if other == group)

    async def add_member(self, group: str, member: str) -> None:
        """Add a member."""
        self._state.members[group, member] = None
        self._change.principals = True

    async def remove_member(self, group: str, member: str) -> None:
        """Remove a member."""
        self._state.members.pop((group, member), None)
        self._change.principals = True

    async def token(self, token_id: str) -> Token | None:
        """A token by its id."""
        return self._state.tokens.get(token_id)

    async def token_by_digest(self, sha256: bytes) -> Token | None:
        """A token by its digest."""
        found = (token for token in self._state.tokens.values() if token.sha256 == sha256)
        return next(found, None)

    async def tokens(self, principal: str, *, below: str | None, limit: int) -> list[Token]:
        """A principal's tokens, the newest first."""
        found = [
            token
            for token in self._state.tokens.values()
            if token.principal == principal and (below is None or token.token_id < below)
        ]
        return sorted(found, key=lambda token: token.token_id, reverse=True)[:limit]

    async def bootstrap_tokens(self, principal: str) -> list[Token]:
        """The tokens that came from files."""
        tokens = self._state.tokens.values()
        return [token for token in tokens if token.principal == principal and token.bootstrap]

    async def put_token(self, token: Token) -> None:
        """Store a token."""
        self._state.tokens[token.token_id] = token
        self._change.tokens = True

    async def grants(self, key: SecurableKey) -> list[Grant]:
        """Direct grants on an object."""
        entity = self._state.entities.get(key)
        found = [
            grant
            for (entity_id, _, _), grant in self._state.grants.items()
            if entity is not None and entity_id == entity.id
        ]
        return sorted(found, key=lambda grant: (grant.principal, grant.privilege))

    async def add_grant(self, entity: Entity, grant: Grant) -> None:
        """Grant."""
        self._state.grants.setdefault((entity.id, grant.principal, grant.privilege), grant)
        self._change.keys.add(entity.key)

    async def remove_grant(self, entity: Entity, principal: str, privilege: Privilege) -> bool:
        """Revoke."""
        self._change.keys.add(entity.key)
        return self._state.grants.pop((entity.id, principal, privilege), None) is not None

    async def nodes(self, keys: Collection[SecurableKey]) -> dict[SecurableKey, AccessNode]:
        """What counts for decisions."""
        found: dict[SecurableKey, AccessNode] = {}
        for key in keys:
            entity = self._state.entities.get(key)
            if entity is None or not entity.active:
                continue
            grants: dict[str, frozenset[Privilege]] = {}
            for grant in await self.grants(key):
                held = grants.get(grant.principal, frozenset())
                grants[grant.principal] = held | {grant.privilege}
            found[key] = AccessNode(key, entity.owner, grants)
        return found
