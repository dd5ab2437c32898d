"""Telling the platform facts over Kafka: labels, payloads of other servers, metrics, lineage."""

# Made from tessera.client.aio.events by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Iterable

from tessera.catalog.v1 import lineage_service_pb2
from tessera.client.aio.events import AsyncEvents
from tessera.client.portal import Portal
from tessera.events.v1 import (
    inference_events_pb2,
    monitoring_events_pb2,
    tracking_events_pb2,
)


class Events:
    """Produces events; the connection to Kafka is made at the first one."""

    def __init__(self, portal: Portal, wrapped: AsyncEvents) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def labels(self, labels: Iterable[monitoring_events_pb2.LabelObserved]) -> int:
        """Tells true outcomes; returns how many, all of them acknowledged by the bus."""
        return self._portal.run(self._wrapped.labels(labels))

    def payloads(self, records: Iterable[inference_events_pb2.PayloadRecord]) -> int:
        """Tells requests and responses of models that are served elsewhere."""
        return self._portal.run(self._wrapped.payloads(records))

    def metrics(self, observed: Iterable[tracking_events_pb2.MetricsObserved]) -> int:
        """Tells points of metrics of runs; returns how many events the bus acknowledged."""
        return self._portal.run(self._wrapped.metrics(observed))

    def lineage(self, edges: Iterable[lineage_service_pb2.LineageEdge]) -> int:
        """Tells what was made from what."""
        return self._portal.run(self._wrapped.lineage(edges))
