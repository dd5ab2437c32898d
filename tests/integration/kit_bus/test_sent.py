"""What a producer sends is counted, whichever way it is sent."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from devstack import Stack
from tessera_kit.bus.event import new_event
from tessera_kit.bus.producer import EventProducer, EventTooLarge
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.config import KafkaConfig
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import process_metrics
from tests.helpers import eventually, unique_name


def sample(suffix: str, **labels: str) -> float | None:
    return process_metrics().registry.get_sample_value(suffix, labels)


async def test_messages_and_durations_are_counted_by_topic(stack: Stack) -> None:
    topic = unique_name("sent")
    registry = TopicRegistry([Topic(topic, 1, 1, (StringValue,), "the text")])
    kafka = KafkaConfig(stack.environment["TESSERA_KAFKA_BOOTSTRAP"])
    label = {"messaging_destination_name": topic}
    total = names.BUS_SENT.prometheus_name + "_total"
    durations = names.BUS_SEND_DURATION.prometheus_name + "_count"
    async with EventProducer(kafka, registry=registry) as producer:
        await producer.publish(new_event(StringValue(value="one"), source="test", key="k"))
        await producer.publish_many(
            new_event(StringValue(value=str(n)), source="test", key="k") for n in range(5)
        )
        assert sample(total, **label, tessera_outcome="ok") == 6
        assert sample(durations, **label, messaging_operation_name="send") == 2
        await (await producer.send_raw(topic, b"k", b"raw"))
        await eventually(lambda: sample(total, **label, tessera_outcome="ok") == 7)
        with pytest.raises(EventTooLarge):
            await producer.send_raw(topic, b"k", b"x" * (18 << 20))
        assert sample(total, **label, tessera_outcome="error") == 1
