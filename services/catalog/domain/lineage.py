"""The lineage graph: what was made from what."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import datetime

from services.catalog.domain.securables import SecurableKey, SecurableType
from services.catalog.errors import InvalidEdge, of_field
from tessera_kit.names import is_name

__all__ = ["Direction", "LineageEdge", "LineageNode", "NodeType"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MODEL_VERSION = re.compile(r"(?P<model>[^/]+)/(?P<version>[1-9]\d{0,17})\Z")


class NodeType(enum.IntEnum):
    """The numbers are those of `tessera.catalog.v1.LineageNodeType`."""

    TABLE = 1
    VOLUME = 2
    JOB = 3
    RUN = 4
    MODEL_VERSION = 5
    ENDPOINT = 6
    MONITOR = 7
    LOGGED_MODEL = 8


class Direction(enum.IntEnum):
    """The numbers are those of `tessera.catalog.v1.LineageDirection`."""

    UPSTREAM = 1
    DOWNSTREAM = 2
    BOTH = 3


_UNGOVERNED = frozenset({NodeType.RUN, NodeType.LOGGED_MODEL})
_SECURABLE = {
    NodeType.TABLE: (SecurableType.TABLE, 3),
    NodeType.VOLUME: (SecurableType.VOLUME, 3),
    NodeType.JOB: (SecurableType.JOB, 1),
    NodeType.MODEL_VERSION: (SecurableType.MODEL, 3),
    NodeType.ENDPOINT: (SecurableType.ENDPOINT, 1),
    NodeType.MONITOR: (SecurableType.MONITOR, 1),
}


@dataclass(frozen=True, slots=True, order=True)
class LineageNode:
    """One thing in the graph."""

    type: NodeType
    name: str

    @classmethod
    def parse(cls, kind: int, name: str, field: str) -> LineageNode:
        """Check a node from outside.

        Raises:
            InvalidEdge: Its kind is not known, or its name is not one of its kind.
        """
        try:
            node = cls(NodeType(kind), name)
        except ValueError:
            raise of_field(InvalidEdge, f"{field}.type", "is not a known kind of node") from None
        if node.type in _UNGOVERNED:
            if not _ID.match(name):
                text = "must be an id: 1 to 64 letters, digits, _ and -"
                raise of_field(InvalidEdge, f"{field}.name", text)
            return node
        full_name, parts = name, _SECURABLE[node.type][1]
        if node.type is NodeType.MODEL_VERSION:
            match = _MODEL_VERSION.match(name)
            if match is None:
                text = 'must be a model\'s full name and a version, as "main.flights.delay/3"'
                raise of_field(InvalidEdge, f"{field}.name", text)
            full_name = match["model"]
        names = full_name.split(".")
        if len(names) != parts or not all(map(is_name, names)):
            text = f"must be {parts} names joined by dots" if parts > 1 else "must be a name"
            raise of_field(InvalidEdge, f"{field}.name", text)
        return node

    @property
    def securable(self) -> SecurableKey | None:
        """The governed object whose visibility decides over the node's.

        None for runs and logged models.
        """
        if self.type in _UNGOVERNED:
            return None
        return SecurableKey(_SECURABLE[self.type][0], self.name.partition("/")[0])


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """The target was made from the source."""

    source: LineageNode
    target: LineageNode
    observed_at: datetime
    principal: str = ""
    source_version: str = ""
    """Which version of the source was used; empty when it is not known."""
