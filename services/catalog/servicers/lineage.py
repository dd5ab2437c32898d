"""`tessera.catalog.v1.LineageService`: where things come from."""

from __future__ import annotations

from typing import Any

from services.catalog.convert.lineage import edge_to_proto, node_from_proto
from services.catalog.domain.lineage import Direction
from services.catalog.handlers.lineage import Lineage
from tessera.catalog.v1 import lineage_service_pb2 as pb
from tessera.catalog.v1 import lineage_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal

__all__ = ["LineageServicer"]


class LineageServicer(rpc.LineageServiceServicer):
    """Translates; the use case is in `handlers.lineage`."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage

    async def GetLineage(
        self, request: pb.GetLineageRequest, context: Any
    ) -> pb.GetLineageResponse:
        """Walk the graph from one node."""
        graph = await self._lineage.walk(
            current_principal(),
            node_from_proto(request.node, "node"),
            Direction(request.direction),
            request.max_depth,
        )
        return pb.GetLineageResponse(
            edges=[edge_to_proto(edge) for edge in graph.edges], truncated=graph.truncated
        )
