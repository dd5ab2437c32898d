"""Lineage edges and done requests in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from services.catalog.adapters.memory.state import State
from services.catalog.domain.lineage import LineageEdge, LineageNode
from services.catalog.domain.securables import SecurableKey, SecurableType
from services.catalog.ports import RequestRecord

__all__ = ["MemoryLineage", "MemoryRequests"]


class MemoryLineage:
    """The `LineageEdges` port."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def put(self, edges: Iterable[LineageEdge]) -> None:
        """Store edges."""
        for edge in edges:
            known = self._state.edges.get((edge.source, edge.target))
            if known is None or known.observed_at < edge.observed_at:
                self._state.edges[edge.source, edge.target] = edge

    async def touching(
        self, nodes: Collection[LineageNode], *, upstream: bool, limit: int
    ) -> list[LineageEdge]:
        """Edges into the nodes or out of them."""
        wanted = set(nodes)
        found = [
            edge
            for edge in self._state.edges.values()
            if (edge.target if upstream else edge.source) in wanted
        ]
        found.sort(key=lambda edge: (edge.source, edge.target))
        found.sort(key=lambda edge: edge.observed_at, reverse=True)
        return found[:limit]

    async def of_model(self, model_name: str) -> list[LineageEdge]:
        """Edges of the versions of a model."""
        model = SecurableKey(SecurableType.MODEL, model_name)
        edges = self._state.edges.values()
        return [one for one in edges if model in (one.source.securable, one.target.securable)]

    async def remove(self, edges: Iterable[LineageEdge]) -> None:
        """Remove edges."""
        for edge in edges:
            self._state.edges.pop((edge.source, edge.target), None)


class MemoryRequests:
    """The `Requests` port."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def get(self, principal: str, method: str, request_id: str) -> RequestRecord | None:
        """The record of a request."""
        return self._state.requests.get((principal, method, request_id))

    async def put(self, record: RequestRecord) -> None:
        """Store a record."""
        key = (record.principal, record.method, record.request_id)
        self._state.requests[key] = record

    async def forget(self, before: datetime) -> None:
        """Drop old records."""
        for key, record in list(self._state.requests.items()):
            if record.created_at < before:
                del self._state.requests[key]
