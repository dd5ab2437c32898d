"""Every topic of the bus: name, messages, partitions, retention and what its key keeps in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code
from google.protobuf.message import Message

from tessera.events.v1 import (
    catalog_events_pb2,
    inference_events_pb2,
    monitoring_events_pb2,
    tracking_events_pb2,
    training_events_pb2,
)
from tessera_kit.config import KafkaConfig

__all__ = [
    "DEAD_LETTER_SUFFIX",
    "REGISTRY",
    "TOPICS",
    "Topic",
    "TopicRegistry",
    "dead_letter_topic",
    "ensure_topics",
    "original_topic",
    "topic_for",
]

DEAD_LETTER_SUFFIX = ".dead-letter"


@dataclass(frozen=True, slots=True)
class Topic:
    """A declared topic."""

    name: str
    """`tessera.<domain>.<noun>.v<version>`."""
    partitions: int
    """How many consumers of one group may share it."""
    retention_hours: int
    """How long the log keeps a record."""
    messages: tuple[type[Message], ...]
    """The message types that it carries; a type is on one topic only."""
    key: str
    """What the record key is, and so which events stay in order."""
    max_message_bytes: int = 1 << 20
    """Largest record, key, value and headers together."""


class TopicRegistry:
    """Which topic carries which message type, both ways.

    Args:
        topics: Declarations; names and message types must be unique.

    Raises:
        ValueError: Two topics have one name, or carry one message type.
    """

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._topics: dict[str, Topic] = {}
        self._by_type: dict[str, tuple[Topic, type[Message]]] = {}
        for topic in topics:
            if topic.name in self._topics:
                raise ValueError(f"topic {topic.name} is declared twice")
            self._topics[topic.name] = topic
            for message in topic.messages:
                name = message.DESCRIPTOR.full_name
                if name in self._by_type:
                    raise ValueError(f"{name} is carried by two topics")
                self._by_type[name] = (topic, message)

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._topics.values())

    def __getitem__(self, name: str) -> Topic:
        return self._topics[name]

    def topic_for(self, message: type[Message]) -> Topic:
        """The topic that carries a message type.

        Raises:
            LookupError: None does.
        """
        found = self._by_type.get(message.DESCRIPTOR.full_name)
        if found is None:
            raise LookupError(f"no topic carries {message.DESCRIPTOR.full_name}")
        return found[0]

    def message_class(self, topic: str, type_name: str) -> type[Message] | None:
        """The message class of a full protobuf name when `topic` carries it."""
        found = self._by_type.get(type_name)
        return found[1] if found is not None and found[0].name == topic else None


def dead_letter_topic(name: str) -> str:
    """Where records of topic `name` go that cannot be handled."""
    return name + DEAD_LETTER_SUFFIX


def original_topic(name: str) -> str:
    """The topic that a dead-letter topic belongs to; any other name unchanged."""
    return name.removesuffix(DEAD_LETTER_SUFFIX)


_WEEK = 7 * 24
_DAY = 24

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="tessera.catalog.entity.v1",
        partitions=1,
        retention_hours=_WEEK,
        messages=(
            catalog_events_pb2.SecurableCreated,
            catalog_events_pb2.SecurableUpdated,
            catalog_events_pb2.SecurableRenamed,
            catalog_events_pb2.SecurableDeleted,
        ),
        key="the securable's full name: one object's life stays in order",
    ),
    Topic(
        name="tessera.catalog.grant.v1",
        partitions=1,
        retention_hours=_DAY,
        messages=(catalog_events_pb2.AccessChanged,),
        key="the principal whose rights changed, empty for anybody's; one partition orders all",
    ),
    Topic(
        name="tessera.catalog.model_version.v1",
        partitions=1,
        retention_hours=_WEEK,
        messages=(
            catalog_events_pb2.ModelVersionStatusChanged,
            catalog_events_pb2.ModelAliasChanged,
            catalog_events_pb2.ModelTagChanged,
        ),
        key="the model's full name: its versions and aliases change in order",
    ),
    Topic(
        name="tessera.lineage.edge.v1",
        partitions=2,
        retention_hours=_WEEK,
        messages=(catalog_events_pb2.LineageObserved,),
        key="type and name of the target; edges are a set, so order matters to nobody",
    ),
    Topic(
        name="tessera.tracking.run.v1",
        partitions=2,
        retention_hours=_WEEK,
        messages=(
            tracking_events_pb2.RunStarted,
            tracking_events_pb2.RunEnded,
            tracking_events_pb2.ModelLogged,
            tracking_events_pb2.RunPurged,
            tracking_events_pb2.ModelPurged,
            tracking_events_pb2.ExperimentPurged,
        ),
        key="the run's id: a run starts before it logs models, ends and is purged",
    ),
    Topic(
        name="tessera.tracking.metric.v1",
        partitions=2,
        retention_hours=_DAY,
        messages=(tracking_events_pb2.MetricsObserved,),
        key="the run's id: points are a set, so order matters only to who follows the run",
    ),
    Topic(
        name="tessera.training.job.v1",
        partitions=2,
        retention_hours=_WEEK,
        messages=(
            training_events_pb2.JobSubmitted,
            training_events_pb2.JobAttemptStarted,
            training_events_pb2.JobCheckpointSaved,
            training_events_pb2.JobEnded,
        ),
        key="the job's id: attempts and checkpoints lie between submission and end",
    ),
    Topic(
        name="tessera.inference.endpoint.v1",
        partitions=1,
        retention_hours=_WEEK,
        messages=(inference_events_pb2.EndpointChanged, inference_events_pb2.EndpointDeleted),
        key="the endpoint's name: its configurations follow one another",
    ),
    Topic(
        name="tessera.inference.payload.v1",
        partitions=4,
        retention_hours=_DAY,
        messages=(inference_events_pb2.PayloadRecord,),
        key="what a repeated record has again, so that it meets its first copy: the gateway's "
        "spool segment; a producer elsewhere sends the tessera_request_id",
        max_message_bytes=16 << 20,
    ),
    Topic(
        name="tessera.inference.rows.v1",
        partitions=1,
        retention_hours=_DAY,
        messages=(inference_events_pb2.InferenceRowsWritten,),
        key="the endpoint's name: batches of one inference table are told as they were written",
    ),
    Topic(
        name="tessera.monitoring.label.v1",
        partitions=2,
        retention_hours=_WEEK,
        messages=(monitoring_events_pb2.LabelObserved,),
        key="the request's id, ours or the caller's: a later label replaces an earlier one",
    ),
    Topic(
        name="tessera.monitoring.window.v1",
        partitions=1,
        retention_hours=_WEEK,
        messages=(monitoring_events_pb2.WindowClosed,),
        key="the monitor's name: its windows close in order",
    ),
    Topic(
        name="tessera.monitoring.alert.v1",
        partitions=1,
        retention_hours=_WEEK,
        messages=(monitoring_events_pb2.AlertChanged,),
        key="the monitor's name: an alert fires before it is resolved",
    ),
)
"""Every topic that Tessera uses; dead-letter topics follow from them."""

REGISTRY = TopicRegistry(TOPICS)


def topic_for(message: type[Message]) -> Topic:
    """The declared topic that carries a message type.

    Raises:
        LookupError: None does.
    """
    return REGISTRY.topic_for(message)


_DEAD_LETTER_HOURS = 4 * _WEEK


async def ensure_topics(kafka: KafkaConfig, registry: TopicRegistry = REGISTRY) -> None:
    """Make the declared topics and their dead-letter topics where they are missing.

    Call it before anything asks for a topic's metadata: some brokers make an unknown topic when
    asked for it, with a number of partitions of their own. Topics that exist are left as they are.

    Raises:
        KafkaError: The broker is away or refuses.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap, request_timeout_ms=15_000)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        missing = [
            topic
            for declared in registry
            for topic in (_new_topic(declared), _new_dead_letter_topic(declared))
            if topic.name not in existing
        ]
        if not missing:
            return
        try:
            response = await admin.create_topics(missing)
        except AttributeError as missing_controller:
            # The client looks for the controller without asking whether there is one yet.
            raise KafkaConnectionError("there is no controller yet") from missing_controller
        for name, code, *message in response.topic_errors:
            error = for_code(code)
            if code != 0 and error is not TopicAlreadyExistsError:
                raise error(f"{name}: {message}")
    finally:
        await admin.close()


def _new_topic(topic: Topic) -> NewTopic:
    return _described(topic.name, topic.partitions, topic.retention_hours, topic.max_message_bytes)


def _new_dead_letter_topic(topic: Topic) -> NewTopic:
    return _described(dead_letter_topic(topic.name), 1, _DEAD_LETTER_HOURS, topic.max_message_bytes)


def _described(name: str, partitions: int, retention_hours: int, max_bytes: int) -> NewTopic:
    topic = NewTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=1,
        topic_configs={
            "retention.ms": str(retention_hours * 3_600_000),
            # Room for the batch's own header, and for a dead letter's reason.
            "max.message.bytes": str(max_bytes + 32_768),
        },
    )
    # The broker's own default; the constructor refuses the value that asks for it (KIP-464).
    topic.replication_factor = -1
    return topic
