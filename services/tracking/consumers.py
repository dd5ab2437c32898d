"""What tracking listens to on the bus, and what becomes of it.

- tessera.tracking.metric.v1, in batches: the points of `MetricsObserved` are stored with their run.
- tessera.catalog.grant.v1, by every process and so in no consumer group: `AccessChanged` ends what
  is kept of decisions.

What cannot be understood, or names a run that takes no points, goes to the topic's dead-letter
topic with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.tracking import convert
from services.tracking.domain.batch import Batch
from services.tracking.handlers.log import RunLog
from tessera.events.v1 import tracking_events_pb2
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.envelope import ConsumedRecord, MalformedEvent, from_record
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.topics import topic_for
from tessera_kit.config import KafkaConfig
from tessera_kit.rpc.server import BackgroundTask
from tessera_kit.rpc.validation import validate
from tessera_kit.rpc.watcher import GrantWatcher, Invalidated

__all__ = ["METRICS_TOPIC", "MetricConsumer", "batch_of", "watch_grants"]

METRICS_TOPIC: Final = topic_for(tracking_events_pb2.MetricsObserved).name
METRICS_GROUP: Final = "tessera-tracking-metrics"


def watch_grants(authority: Invalidated, kafka: KafkaConfig) -> BackgroundTask:
    """Return the task that drops decisions when grants change."""
    return BackgroundTask("grant-watcher", GrantWatcher(authority, kafka).run)


class MetricConsumer:
    """Takes points from the bus, in batches; a record that comes again changes nothing.

    Args:
        kafka: Brokers.
        log: Stores points.
        dead_letters: Where records go that cannot be stored.
    """

    def __init__(self, kafka: KafkaConfig, log: RunLog, dead_letters: Publisher) -> None:
        self._log = log
        self._consumer = BatchConsumer(
            kafka,
            group=METRICS_GROUP,
            topics=[METRICS_TOPIC],
            handle=self.take,
            dead_letters=dead_letters,
            max_records=500,
        )

    async def run(self) -> None:
        """Consume until cancelled."""
        await self._consumer.run()

    async def take(self, records: Sequence[ConsumedRecord]) -> None:
        """Store the points of records, durably.

        Raises:
            InvalidArgument: One of the records is malformed; nothing was stored.
            RunNotFound, RunNotActive: One was refused; the others are stored.
        """
        await self._log.take([batch_of(record) for record in records])


def batch_of(record: ConsumedRecord) -> Batch:
    """Return the points that a record holds.

    Raises:
        InvalidArgument: It is malformed; the message names the header or field.
    """
    event = from_record(record)
    data = event.data
    if not isinstance(data, tracking_events_pb2.MetricsObserved):
        raise MalformedEvent("the event does not tell of metrics")
    validate(data)
    points = convert.joined_points(data.metrics, data.series)
    return Batch(run_id=data.run_id, principal=event.source, points=points)
