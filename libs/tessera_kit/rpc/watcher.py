"""Drops what an authority keeps as soon as somebody's rights change."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import Final, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from tessera.events.v1 import catalog_events_pb2
from tessera_kit.bus.topics import ensure_topics, topic_for
from tessera_kit.config import KafkaConfig
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics, process_metrics

__all__ = ["GrantWatcher", "Invalidated"]

_log = logging.getLogger(__name__)
_SHORTEST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0


class Invalidated(Protocol):
    """What keeps answers that change with grants."""

    def invalidate_all(self) -> None:
        """Forget every answer."""


class GrantWatcher:
    """Reads every `AccessChanged` event and makes the authority forget its answers.

    It is in no consumer group, as every process must see every event. A change may reach a group's
    members and all that an object holds, so all answers go; they come back with the next requests.
    The bus is the fast way; it may be busy or away, so `CatalogAuthority.follow` looks as well.

    Args:
        authority: What is to forget.
        kafka: The bus.
        metrics: Where lost connections are counted.
    """

    def __init__(
        self, authority: Invalidated, kafka: KafkaConfig, *, metrics: Metrics | None = None
    ) -> None:
        self._authority = authority
        self._kafka = kafka
        self._topic = topic_for(catalog_events_pb2.AccessChanged).name
        failures = (metrics or process_metrics()).counter(names.BACKGROUND_FAILURES)
        self._failures = failures.labels("grant watcher")

    async def run(self) -> None:
        """Watch until cancelled, over any loss of the bus."""
        pause = _SHORTEST_PAUSE
        while True:
            try:
                await self._watch()
            except KafkaError as error:
                self._failures.inc()
                _log.warning("lost the bus, grants are watched again soon: %s", error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _watch(self) -> None:
        consumer = AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=self._kafka.bootstrap,
            group_id=None,
            # From the first event on: none is missed while the topic is being made, and an old one
            # costs no more than a question asked again.
            auto_offset_reset="earliest",
            metadata_max_age_ms=5_000,
            fetch_max_wait_ms=int(self._kafka.fetch_wait_seconds * 1000),
        )
        try:
            # Before the topic is asked for: a broker may make an unknown one as it likes.
            await ensure_topics(self._kafka)
            await consumer.start()
            # What changed while nobody watched is not known.
            self._authority.invalidate_all()
            while True:
                if await consumer.getmany(timeout_ms=60_000):
                    self._authority.invalidate_all()
        finally:
            with suppress(KafkaError):
                await consumer.stop()
