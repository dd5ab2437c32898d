"""The catalog's data as dictionaries; a transaction works on copies that a commit puts in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields

from services.catalog.adapters.memory.access import MemoryAccess
from services.catalog.adapters.memory.entities import MemoryEntities
from services.catalog.adapters.memory.lineage import MemoryLineage, MemoryRequests
from services.catalog.adapters.memory.versions import MemoryVersions
from services.catalog.domain.lineage import LineageEdge, LineageNode
from services.catalog.domain.models import ModelFile, ModelVersion, Upload
from services.catalog.domain.principals import Grant, Principal, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, SecurableKey
from services.catalog.ports import (
    AccessRecords,
    CommittedChange,
    Entities,
    LineageEdges,
    RequestRecord,
    Requests,
    Transaction,
    Versions,
)
from tessera_kit.bus.event import Event

__all__ = ["InMemoryStore", "State"]


@dataclass(slots=True)
class State:
    """Everything that is kept."""

    entities: dict[SecurableKey, Entity] = field(default_factory=dict)
    versions: dict[str, ModelVersion] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    files: dict[tuple[str, str], ModelFile] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    principals: dict[str, Principal] = field(default_factory=dict)
    members: dict[tuple[str, str], None] = field(default_factory=dict)
    """(group, member)"""
    tokens: dict[str, Token] = field(default_factory=dict)
    grants: dict[tuple[str, str, Privilege], Grant] = field(default_factory=dict)
    """(entity id, principal, privilege)"""
    edges: dict[tuple[LineageNode, LineageNode], LineageEdge] = field(default_factory=dict)
    requests: dict[tuple[str, str, str], RequestRecord] = field(default_factory=dict)
    revision: int = 0

    def copy(self) -> State:
        """A state that may be changed without changing this one; what it holds is frozen."""
        found = State(revision=self.revision)
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, dict):
                setattr(found, item.name, dict(value))
        return found


class InMemoryStore:
    """The `Store` port in memory; `events` holds what was told by committed transactions."""

    single_writer = True

    def __init__(self) -> None:
        self.state = State()
        self.events: list[Event] = []
        self._writer = asyncio.Lock()
        self._listeners: list[Callable[[CommittedChange], None]] = []

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Open a transaction that only reads."""
        yield _Transaction(self, self.state)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Open a transaction that may write; one at a time."""
        async with self._writer:
            yield _Transaction(self, self.state.copy())

    def on_commit(self, listener: Callable[[CommittedChange], None]) -> None:
        """Call `listener` after each commit that changed something for decisions."""
        self._listeners.append(listener)

    async def revision(self) -> int:
        """Grows with every commit that changed something for decisions."""
        return self.state.revision

    def install(self, state: State, events: list[Event], change: CommittedChange) -> None:
        """Make a transaction's state the store's."""
        if change:
            state.revision = self.state.revision + 1
        self.state = state.copy()
        self.events += events
        if change:
            for listener in self._listeners:
                listener(change)


class _Transaction:
    """The `Transaction` port over one state."""

    entities: Entities
    versions: Versions
    access: AccessRecords
    lineage: LineageEdges
    requests: Requests

    def __init__(self, store: InMemoryStore, state: State) -> None:
        self._store = store
        self._state = state
        self._events: list[Event] = []
        self._change = CommittedChange()
        self.entities = MemoryEntities(state, self._change)
        self.versions = MemoryVersions(state)
        self.access = MemoryAccess(state, self._change)
        self.lineage = MemoryLineage(state)
        self.requests = MemoryRequests(state)

    def publish(self, event: Event) -> None:
        self._events.append(event)

    async def commit(self) -> None:
        events, self._events = self._events, []
        change = CommittedChange(
            set(self._change.keys), self._change.principals, self._change.tokens
        )
        self._change.keys.clear()
        self._change.principals = self._change.tokens = False
        self._store.install(self._state, events, change)
