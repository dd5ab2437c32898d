"""Every topic of the bus: name, messages, partitions, retention and what its key keeps in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import Message

__all__ = [
    "DEAD_LETTER_SUFFIX",
    "REGISTRY",
    "TOPICS",
    "Topic",
    "TopicRegistry",
    "dead_letter_topic",
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


TOPICS: tuple[Topic, ...] = ()

REGISTRY = TopicRegistry(TOPICS)


def topic_for(message: type[Message]) -> Topic:
    """The declared topic that carries a message type.

    Raises:
        LookupError: None does.
    """
    return REGISTRY.topic_for(message)
