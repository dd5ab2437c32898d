"""What the catalog consumes: lineage edges, from every service and from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from google.protobuf.message import Message

from services.catalog.adapters.sql.lineage import SqlLineage
from services.catalog.convert.lineage import edge_from_proto
from services.catalog.errors import InvalidEdge, of_field
from services.catalog.handlers.lineage import store_edges
from tessera.events.v1 import catalog_events_pb2
from tessera_kit.bus.event import Event
from tessera_kit.bus.handling import Handler
from tessera_kit.store.sql import UnitOfWork

__all__ = ["GROUP", "HANDLERS", "on_lineage_observed"]

GROUP = "tessera-catalog"
_MOST_EDGES = 1000


async def on_lineage_observed(event: Event, uow: UnitOfWork) -> None:
    """Store the edges; storing them again changes nothing.

    Raises:
        InvalidEdge: One is not valid: none is stored, and the event becomes a dead letter that
            names the field.
    """
    data = cast("catalog_events_pb2.LineageObserved", event.data)
    if not 1 <= len(data.edges) <= _MOST_EDGES:
        raise of_field(InvalidEdge, "edges", f"must hold 1 to {_MOST_EDGES} edges")
    edges = [
        edge_from_proto(edge, f"edges[{index}]", event.time)
        for index, edge in enumerate(data.edges)
    ]
    await store_edges(SqlLineage(uow.session), edges)


HANDLERS: Mapping[type[Message], Handler] = {
    catalog_events_pb2.LineageObserved: on_lineage_observed,
}
