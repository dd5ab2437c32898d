"""Twins of the ports that live in memory: for tests, and for embedding without a database."""

from services.training.adapters.memory.store import (
    InMemoryCheckpointFiles,
    InMemoryChores,
    InMemoryFirings,
    InMemoryJobs,
    InMemoryTriggers,
    Memory,
)
from services.training.adapters.memory.world import (
    InMemoryCatalog,
    InMemoryLogs,
    InMemoryProcesses,
    InMemorySources,
    InMemoryTracking,
)

__all__ = [
    "InMemoryCatalog",
    "InMemoryCheckpointFiles",
    "InMemoryChores",
    "InMemoryFirings",
    "InMemoryJobs",
    "InMemoryLogs",
    "InMemoryProcesses",
    "InMemorySources",
    "InMemoryTracking",
    "InMemoryTriggers",
    "Memory",
]
