"""Twins of every port, held in memory: the same constraints, nothing kept."""

from services.catalog.adapters.memory.engine import InMemoryTableEngine
from services.catalog.adapters.memory.store import InMemoryStore

__all__ = ["InMemoryStore", "InMemoryTableEngine"]
