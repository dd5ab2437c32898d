"""The declared topics: complete, consistent, and one place for each event."""

from __future__ import annotations

import re

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from tessera.events.v1 import (
    catalog_events_pb2,
    inference_events_pb2,
    monitoring_events_pb2,
    tracking_events_pb2,
    training_events_pb2,
)
from tessera_kit.bus.topics import (
    REGISTRY,
    TOPICS,
    Topic,
    TopicRegistry,
    dead_letter_topic,
    original_topic,
    topic_for,
)

MODULES = (
    catalog_events_pb2,
    inference_events_pb2,
    monitoring_events_pb2,
    tracking_events_pb2,
    training_events_pb2,
)
EVENTS = [
    getattr(module, name) for module in MODULES for name in module.DESCRIPTOR.message_types_by_name
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.DESCRIPTOR.name)
def test_every_event_of_the_contracts_has_its_topic(event: type[Message]) -> None:
    topic = topic_for(event)
    assert event in topic.messages
    assert REGISTRY.message_class(topic.name, event.DESCRIPTOR.full_name) is event


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topic_is_well_named_and_says_what_its_key_is(topic: Topic) -> None:
    assert re.fullmatch(r"tessera\.[a-z]+\.[a-z_]+\.v[1-9]", topic.name)
    assert topic.key
    assert topic.messages
    assert 1 <= topic.partitions <= 4
    assert topic.retention_hours >= 24
    assert original_topic(dead_letter_topic(topic.name)) == original_topic(topic.name) == topic.name


def test_a_message_type_is_of_one_topic_and_no_other() -> None:
    name = StringValue.DESCRIPTOR.full_name
    registry = TopicRegistry([Topic("a", 1, 1, (StringValue,), "k"), Topic("b", 1, 1, (), "k")])
    assert registry.topic_for(StringValue).name == "a"
    assert registry["a"].messages == (StringValue,)
    assert [topic.name for topic in registry] == ["a", "b"]
    assert registry.message_class("b", name) is None
    assert registry.message_class("a", "google.protobuf.Nope") is None
    with pytest.raises(LookupError, match="Int64Value"):
        registry.topic_for(Int64Value)


@pytest.mark.parametrize(
    ("names", "what"), [(("a", "a"), "declared twice"), (("a", "b"), "carried by two")]
)
def test_a_contradiction_is_refused(names: tuple[str, str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        TopicRegistry(Topic(name, 1, 1, (StringValue,), "k") for name in names)
