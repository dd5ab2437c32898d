"""Twins of the ports in memory, for tests and for embedding."""

from services.inference.adapters.memory.catalog import (
    InMemoryModels,
    InMemoryOrigins,
    InMemoryTables,
)
from services.inference.adapters.memory.endpoints import (
    InMemoryBudgets,
    InMemoryEndpoints,
    InMemoryReplacements,
)
from services.inference.adapters.memory.rows import InMemoryCapture, InMemoryPayloads
from services.inference.adapters.memory.runtime import (
    InMemoryBundles,
    InMemoryProcess,
    InMemoryRuntime,
    InMemorySecrets,
)

__all__ = [
    "InMemoryBudgets",
    "InMemoryBundles",
    "InMemoryCapture",
    "InMemoryEndpoints",
    "InMemoryModels",
    "InMemoryOrigins",
    "InMemoryPayloads",
    "InMemoryProcess",
    "InMemoryReplacements",
    "InMemoryRuntime",
    "InMemorySecrets",
    "InMemoryTables",
]
