"""The catalog's data as dictionaries; a transaction works on copies that a commit puts in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.catalog.adapters.memory.access import MemoryAccess
from services.catalog.adapters.memory.entities import MemoryEntities
from services.catalog.adapters.memory.lineage import MemoryLineage, MemoryRequests
from services.catalog.adapters.memory.state import State
from services.catalog.adapters.memory.versions import MemoryVersions
from services.catalog.ports import (
    AccessRecords,
    CommittedChange,
    Entities,
    LineageEdges,
    Requests,
    Transaction,
    Versions,
)
from tessera_kit.bus.event import Event

__all__ = ["InMemoryStore"]


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
        self._store.install(self._state, events, self._change.taken())
