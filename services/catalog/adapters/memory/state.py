"""All that the catalog keeps, as dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from services.catalog.domain.lineage import LineageEdge, LineageNode
from services.catalog.domain.models import ModelFile, ModelVersion, Upload
from services.catalog.domain.principals import Grant, Principal, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, SecurableKey
from services.catalog.ports import RequestRecord

__all__ = ["State"]


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
