"""Governed objects in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from services.catalog.adapters.memory.state import State
from services.catalog.domain.securables import METASTORE, Entity, SecurableKey, SecurableType
from services.catalog.errors import SecurableExists
from services.catalog.ports import CommittedChange

__all__ = ["MemoryEntities", "haystack"]


def haystack(entity: Entity) -> str:
    """The text that a search looks in."""
    tags = [text for pair in sorted(entity.tags.items()) for text in pair]
    return "\n".join([entity.key.full_name, entity.comment, *tags]).casefold()


class MemoryEntities:
    """The `Entities` port."""

    def __init__(self, state: State, change: CommittedChange) -> None:
        self._state = state
        self._change = change

    async def get(self, key: SecurableKey, *, lock: bool = False) -> Entity | None:
        """The object in whatever state."""
        return self._state.entities.get(key)

    async def add(self, entity: Entity) -> None:
        """Store a new object."""
        if entity.key in self._state.entities:
            raise SecurableExists(f"{entity.key} exists")
        self._state.entities[entity.key] = entity
        self._change.keys.add(entity.key)

    async def replace(self, entity: Entity) -> None:
        """Store a new version of an object."""
        before = self._state.entities[entity.key]
        self._state.entities[entity.key] = entity
        if (before.owner, before.state) != (entity.owner, entity.state):
            self._change.keys.add(entity.key)

    async def rename(self, entity: Entity, was: SecurableKey) -> None:
        """Store an object under its new key."""
        state = self._state
        if entity.key in state.entities:
            raise SecurableExists(f"{entity.key} exists")
        del state.entities[was]
        state.entities[entity.key] = entity
        for held, grant in state.grants.items():
            if held[0] == entity.id:
                state.grants[held] = replace(grant, key=entity.key)
        self._change.keys |= {was, entity.key}

    async def remove(self, entity: Entity) -> None:
        """Remove the object with what hangs from it."""
        state = self._state
        if state.entities.pop(entity.key, None) is None:
            return
        self._change.keys.add(entity.key)
        for grant in [key for key in state.grants if key[0] == entity.id]:
            del state.grants[grant]
        for alias in [key for key in state.aliases if key[0] == entity.id]:
            del state.aliases[alias]
        versions = {v.id for v in state.versions.values() if v.model_id == entity.id}
        for version_id in versions:
            del state.versions[version_id]
        for file in [key for key in state.files if key[0] in versions]:
            del state.files[file]
        for upload in [u for u in state.uploads.values() if u.version_id in versions]:
            del state.uploads[upload.id]

    async def children(
        self, parent: SecurableKey, kind: SecurableType, *, after: str, limit: int
    ) -> list[Entity]:
        """Active objects of a kind right below `parent`."""
        found = [
            entity
            for key, entity in self._state.entities.items()
            if key.type is kind and key.parent == parent and entity.active and key.full_name > after
        ]
        return sorted(found, key=lambda entity: entity.key.full_name)[:limit]

    async def subtree(self, key: SecurableKey) -> list[Entity]:
        """Everything below the object, deepest first."""
        found = [entity for other, entity in self._state.entities.items() if key in other.chain[1:]]
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
        found = [
            entity
            for key, entity in self._state.entities.items()
            if entity.active
            and key != METASTORE
            and (not kinds or key.type in kinds)
            and (key.full_name, int(key.type)) > after
            and all(word in haystack(entity) for word in words)
        ]
        return sorted(found, key=lambda e: (e.key.full_name, e.key.type))[:limit]

    async def unsettled(self) -> list[Entity]:
        """Objects being created or deleted."""
        return [entity for entity in self._state.entities.values() if not entity.active]

    async def owned_by(self, owner: str) -> list[Entity]:
        """Objects that a principal owns."""
        found = [entity for entity in self._state.entities.values() if entity.owner == owner]
        return sorted(found, key=lambda entity: entity.key)
