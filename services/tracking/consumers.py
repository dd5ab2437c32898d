"""What tracking listens to on the bus: changes of grants, which end what it keeps of decisions.

It consumes no other event, so it is in no consumer group; `tessera_kit.rpc.watcher` reads every
`AccessChanged` in every process.
"""

from __future__ import annotations

from tessera_kit.config import KafkaConfig
from tessera_kit.rpc.server import BackgroundTask
from tessera_kit.rpc.watcher import GrantWatcher, Invalidated

__all__ = ["watch_grants"]


def watch_grants(authority: Invalidated, kafka: KafkaConfig) -> BackgroundTask:
    """Return the task that drops decisions when grants change."""
    return BackgroundTask("grant-watcher", GrantWatcher(authority, kafka).run)
