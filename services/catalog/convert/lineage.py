"""Lineage nodes and edges."""

from __future__ import annotations

from datetime import datetime

from services.catalog.convert.numbers import number
from services.catalog.convert.securables import moment, timestamp
from services.catalog.domain.lineage import LineageEdge, LineageNode
from services.catalog.errors import InvalidEdge, of_field
from tessera.catalog.v1 import lineage_service_pb2 as lineage

__all__ = ["edge_from_proto", "edge_to_proto", "node_from_proto", "node_to_proto"]

_LONGEST_PRINCIPAL = 128
_LONGEST_VERSION = 64


def node_from_proto(node: lineage.LineageNode, field: str) -> LineageNode:
    """Check a node.

    Raises:
        InvalidEdge: Its kind is not known, or its name is not one of its kind.
    """
    return LineageNode.parse(node.type, node.name, field)


def node_to_proto(node: LineageNode) -> lineage.LineageNode:
    """A node."""
    return lineage.LineageNode(type=number(node.type), name=node.name)


def edge_from_proto(edge: lineage.LineageEdge, field: str, default: datetime) -> LineageEdge:
    """Check an edge; one without a time happened at `default`.

    Raises:
        InvalidEdge: A part is wrong; the violation names it.
    """
    source = node_from_proto(edge.source, f"{field}.source")
    target = node_from_proto(edge.target, f"{field}.target")
    if source == target:
        raise of_field(InvalidEdge, field, "must not lead from a node to itself")
    if len(edge.principal) > _LONGEST_PRINCIPAL:
        text = f"must have at most {_LONGEST_PRINCIPAL} characters"
        raise of_field(InvalidEdge, f"{field}.principal", text)
    if len(edge.source_version) > _LONGEST_VERSION:
        text = f"must have at most {_LONGEST_VERSION} characters"
        raise of_field(InvalidEdge, f"{field}.source_version", text)
    try:
        observed_at = moment(edge.observed_at) if edge.HasField("observed_at") else default
    except (ValueError, OverflowError):
        text = "must be a time of the years 1 to 9999"
        raise of_field(InvalidEdge, f"{field}.observed_at", text) from None
    return LineageEdge(source, target, observed_at, edge.principal, edge.source_version)


def edge_to_proto(edge: LineageEdge) -> lineage.LineageEdge:
    """An edge."""
    return lineage.LineageEdge(
        source=node_to_proto(edge.source),
        target=node_to_proto(edge.target),
        observed_at=timestamp(edge.observed_at),
        principal=edge.principal,
        source_version=edge.source_version,
    )
