"""The lineage graph: edges from the bus, walks from a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.catalog.domain.lineage import Direction, LineageEdge, LineageNode
from services.catalog.domain.securables import SecurableKey
from services.catalog.handlers.context import Context
from services.catalog.handlers.guard import not_found
from services.catalog.ports import LineageEdges
from tessera_kit.rpc.identity import Principal

__all__ = ["Lineage", "LineageGraph", "store_edges"]

_MOST_EDGES = 1000
_DEFAULT_DEPTH = 10


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """Edges around a node, nearest first."""

    edges: tuple[LineageEdge, ...]
    truncated: bool = False
    """Whether there were more."""


async def store_edges(lineage: LineageEdges, edges: Sequence[LineageEdge]) -> None:
    """Add observed edges; those that are known keep their latest time."""
    latest: dict[tuple[LineageNode, LineageNode], LineageEdge] = {}
    for edge in edges:
        known = latest.get((edge.source, edge.target))
        if known is None or known.observed_at < edge.observed_at:
            latest[edge.source, edge.target] = edge
    await lineage.put(latest.values())


class Lineage:
    """Use cases of the lineage graph."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def walk(
        self, caller: Principal, start: LineageNode, direction: Direction, depth: int
    ) -> LineageGraph:
        """Walk the graph breadth first.

        What the caller may not see is left out, and so is what only a way through it leads to.
        Runs and logged models, which are no governed objects, are seen by who sees what they touch.

        Raises:
            SecurableNotFound: The start is not there for the caller.
        """
        key = start.securable
        if key is not None and not await self._seen(caller, [start]):
            raise not_found(key)
        walks = [
            await self._walk(caller, start, upstream, depth or _DEFAULT_DEPTH)
            for upstream in _UPSTREAM[direction]
        ]
        layers = max(len(layers) for layers, _ in walks)
        merged: dict[tuple[LineageNode, LineageNode], LineageEdge] = {}
        for distance in range(layers):
            for found, _ in walks:
                for edge in found[distance] if distance < len(found) else ():
                    merged.setdefault((edge.source, edge.target), edge)
        edges = tuple(merged.values())
        truncated = len(edges) > _MOST_EDGES or any(cut for _, cut in walks)
        return LineageGraph(edges[:_MOST_EDGES], truncated)

    async def _walk(
        self, caller: Principal, start: LineageNode, upstream: bool, depth: int
    ) -> tuple[list[list[LineageEdge]], bool]:
        """Edges by distance, and whether some were left out for their number."""
        layers: list[list[LineageEdge]] = []
        visited = {start}
        frontier = [start]
        count = 0
        while frontier and len(layers) < depth:
            limit = _MOST_EDGES - count + 1
            async with self._context.store.read() as tx:
                found = await tx.lineage.touching(frontier, upstream=upstream, limit=limit)
            ends = [edge.source if upstream else edge.target for edge in found]
            seen = await self._seen(caller, ends)
            layer = [edge for edge, end in zip(found, ends, strict=True) if end in seen]
            layers.append(layer)
            count += len(layer)
            if len(found) == limit:
                return layers, True
            frontier = [end for end in dict.fromkeys(ends) if end in seen and end not in visited]
            visited.update(frontier)
        return layers, False

    async def _seen(self, caller: Principal, nodes: Sequence[LineageNode]) -> set[LineageNode]:
        if caller.is_admin:
            return set(nodes)
        keys: dict[LineageNode, SecurableKey | None] = {node: node.securable for node in nodes}
        wanted = {key for key in keys.values() if key is not None}
        visible = await self._context.guard.visible(caller, wanted)
        return {node for node, key in keys.items() if key is None or key in visible}


_UPSTREAM = {
    Direction.UPSTREAM: (True,),
    Direction.DOWNSTREAM: (False,),
    Direction.BOTH: (True, False),
}
