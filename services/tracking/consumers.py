"""What tracking listens to on the bus, and what becomes of it.

- tessera.tracking.metric.v1, in batches: the points of `MetricsObserved` are stored with their run.
- tessera.catalog.entity.v1 and tessera.catalog.model_version.v1: changes of the registry are put on
  their way to webhooks.
- tessera.catalog.grant.v1, by the kit's `GrantWatcher`: `AccessChanged` ends what is kept of
  decisions.

What cannot be understood, or names a run that takes no points, goes to the topic's dead-letter
topic with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.tracking.convert import messages, registry
from services.tracking.domain.batch import Batch
from services.tracking.handlers import registry_news
from services.tracking.handlers.log import RunLog
from services.tracking.handlers.registry_news import News, RegistryNews
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import catalog_events_pb2, tracking_events_pb2
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.envelope import ConsumedRecord, MalformedEvent, from_record
from tessera_kit.bus.event import Event
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.topics import topic_for
from tessera_kit.config import KafkaConfig
from tessera_kit.rpc.validation import validate

__all__ = [
    "METRICS_TOPIC",
    "MetricConsumer",
    "RegistryConsumer",
    "batch_of",
    "news_of",
]

METRICS_TOPIC: Final = topic_for(tracking_events_pb2.MetricsObserved).name
METRICS_GROUP: Final = "tessera-tracking-metrics"
REGISTRY_GROUP: Final = "tessera-tracking-webhooks"
_REGISTRY_TOPICS: Final = tuple(
    topic_for(kind).name
    for kind in (catalog_events_pb2.SecurableCreated, catalog_events_pb2.ModelVersionStatusChanged)
)


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


class RegistryConsumer:
    """Tells webhooks what happened in the registry; a record that comes again changes nothing.

    Args:
        kafka: Brokers.
        news: Puts changes on their way.
        dead_letters: Where records go that cannot be understood.
        group: The consumer group.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        news: RegistryNews,
        dead_letters: Publisher,
        *,
        group: str = REGISTRY_GROUP,
    ) -> None:
        self._news = news
        self._consumer = BatchConsumer(
            kafka,
            group=group,
            topics=_REGISTRY_TOPICS,
            handle=self.take,
            dead_letters=dead_letters,
            max_records=100,
        )

    async def run(self) -> None:
        """Consume until cancelled."""
        await self._consumer.run()

    async def take(self, records: Sequence[ConsumedRecord]) -> None:
        """Put the changes that records tell of on their way, durably.

        Raises:
            InvalidArgument: One of the records is malformed; those before it were taken.
            Unavailable: The catalog or the database is away.
        """
        for record in records:
            news = news_of(from_record(record))
            if news is not None:
                await self._news.tell(news)


def news_of(event: Event) -> News | None:
    """Return what an event of the catalog tells webhooks; None when it is nothing of the registry.

    A version is news when it becomes ready: before that nobody can load it.
    """
    data, at = event.data, event.time
    match data:
        case catalog_events_pb2.SecurableCreated():
            is_model = data.securable.type == securable_pb2.SECURABLE_TYPE_MODEL
            told = registry.securable_model(data.securable)
            return registry_news.model_created(event.id, at, told) if is_model else None
        case catalog_events_pb2.ModelVersionStatusChanged():
            version = registry.version(data.model_version)
            uri = f"mlflow-artifacts:/registry/{version.full_name}/{version.version}"
            ready = version.is_ready
            return registry_news.version_ready(event.id, at, version, uri) if ready else None
        case catalog_events_pb2.ModelAliasChanged():
            return registry_news.alias_changed(
                event.id, at, data.model_name, data.alias, data.version
            )
        case catalog_events_pb2.ModelTagChanged():
            value = None if data.removed else data.value
            return registry_news.tag_changed(
                event.id, at, data.model_name, data.version, data.key, value
            )
    return None


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
    points = messages.joined_points(data.metrics, data.series)
    return Batch(run_id=data.run_id, principal=event.source, points=points)
