"""Telling the platform facts over Kafka: labels, payloads of other servers, metrics, lineage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.message import Message

from tessera.catalog.v1 import lineage_service_pb2
from tessera.events.v1 import (
    catalog_events_pb2,
    inference_events_pb2,
    monitoring_events_pb2,
    tracking_events_pb2,
)
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.config import KafkaConfig

_SOURCE = "tessera/client"


def label(
    endpoint: str,
    value: float,
    *,
    request_id: str = "",
    client_request_id: str = "",
    observed_at: datetime | None = None,
) -> monitoring_events_pb2.LabelObserved:
    """The true outcome of a request, named by its tessera_request_id or the caller's id."""
    observed = monitoring_events_pb2.LabelObserved(
        endpoint=endpoint,
        value=value,
        tessera_request_id=request_id,
        client_request_id=client_request_id,
    )
    observed.observed_at.FromDatetime(observed_at or datetime.now(UTC))
    return observed


class AsyncEvents:
    """Produces events; the connection to Kafka is made at the first one."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._producer = EventProducer(kafka)
        self._starting = asyncio.Lock()
        self._started = False

    async def labels(self, labels: Iterable[monitoring_events_pb2.LabelObserved]) -> int:
        """Tells true outcomes; returns how many, all of them acknowledged by the bus."""
        return await self._publish(
            [_event(item, item.tessera_request_id or item.client_request_id) for item in labels]
        )

    async def payloads(self, records: Iterable[inference_events_pb2.PayloadRecord]) -> int:
        """Tells requests and responses of models that are served elsewhere."""
        return await self._publish(
            [_event(record, record.tessera_request_id) for record in records]
        )

    async def metrics(self, observed: Iterable[tracking_events_pb2.MetricsObserved]) -> int:
        """Tells points of metrics of runs; returns how many events the bus acknowledged."""
        return await self._publish([_event(one, one.run_id) for one in observed])

    async def lineage(self, edges: Iterable[lineage_service_pb2.LineageEdge]) -> int:
        """Tells what was made from what."""
        events = [
            _event(
                catalog_events_pb2.LineageObserved(edges=[edge]),
                f"{edge.target.type}/{edge.target.name}",
            )
            for edge in edges
        ]
        return await self._publish(events)

    async def close(self) -> None:
        """Sends what is under way and closes the connection."""
        if self._started:
            await self._producer.stop()

    async def _publish(self, events: list[Event]) -> int:
        async with self._starting:
            if not self._started:
                await self._producer.start()
                self._started = True
        await self._producer.publish_many(events)
        return len(events)


def _event(data: Message, key: str) -> Event:
    return new_event(data, source=_SOURCE, key=key)
