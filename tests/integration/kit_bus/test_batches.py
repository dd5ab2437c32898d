"""The batch consumer on a real broker: batches, poison, failures that pass, moving partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiokafka import AIOKafkaConsumer
from google.protobuf.wrappers_pb2 import Int64Value
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tessera_kit.bus import batches
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.envelope import ConsumedRecord, from_record
from tessera_kit.bus.event import new_event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import Topic, TopicRegistry, dead_letter_topic
from tessera_kit.config import KafkaConfig
from tessera_kit.errors import InvalidArgument, Unavailable
from tests.helpers import eventually, unique_name

QUICK = RetryPolicy(initial_seconds=0.01, maximum_seconds=0.05, budget_seconds=None)
soon = partial(eventually, timeout=40)


@pytest.fixture
def topic() -> Topic:
    return Topic(f"test.{unique_name()}.v1", 3, 1, (Int64Value,), "the number")


@pytest.fixture
async def producer(kafka: KafkaConfig, registry: TopicRegistry) -> AsyncIterator[EventProducer]:
    async with EventProducer(kafka, registry=registry) as producer:
        yield producer


class Sink:
    """Keeps what it was given, with the numbers that its batches held."""

    def __init__(self, registry: TopicRegistry) -> None:
        self._registry = registry
        self.batches: list[list[int]] = []
        self.failures = 0
        self.refused: set[int] = set()

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    async def __call__(self, records: Sequence[ConsumedRecord]) -> None:
        numbers = [from_record(record, self._registry).data.value for record in records]  # type: ignore[attr-defined]
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        if self.refused & set(numbers):
            raise InvalidArgument("refused")
        self.batches.append(numbers)


@asynccontextmanager
async def running(*runs: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(run()) for run in runs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def publish(producer: EventProducer, numbers: Sequence[int]) -> None:
    await producer.publish_many(
        [new_event(Int64Value(value=n), source="test", key=str(n)) for n in numbers]
    )


async def test_all_records_arrive_in_batches_and_a_group_goes_on_where_it_ended(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic, producer: EventProducer
) -> None:
    sink = Sink(registry)
    sink.failures = 3

    def consumer() -> BatchConsumer:
        return BatchConsumer(
            kafka,
            group=topic.name,
            topics=[topic.name],
            handle=sink,
            registry=registry,
            retry=QUICK,
            max_records=1000,
        )

    await publish(producer, range(3000))
    async with running(consumer().run):
        await soon(lambda: len(sink.numbers) >= 3000)
    assert sorted(sink.numbers) == list(range(3000))
    assert len(sink.batches) < 30
    assert max(len(batch) for batch in sink.batches) <= 1000
    await publish(producer, range(3000, 3010))
    async with running(consumer().run):
        await soon(lambda: len(sink.numbers) >= 3010)
    assert sorted(sink.numbers) == list(range(3010))


async def test_records_at_fault_become_dead_letters_and_the_others_arrive(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic, producer: EventProducer
) -> None:
    sink = Sink(registry)
    sink.refused = {3, 77}
    consumer = BatchConsumer(
        kafka,
        group=topic.name,
        topics=[topic.name],
        handle=sink,
        dead_letters=producer,
        registry=registry,
        retry=QUICK,
    )
    await publish(producer, range(100))
    async with running(consumer.run):
        await soon(lambda: len(sink.numbers) >= 98)
        letters = AIOKafkaConsumer(
            dead_letter_topic(topic.name),
            bootstrap_servers=kafka.bootstrap,
            auto_offset_reset="earliest",
        )
        async with letters:
            refused = {
                Int64Value.FromString((await letters.getone()).value).value for _ in range(2)
            }
    assert sorted(sink.numbers) == [n for n in range(100) if n not in {3, 77}]
    assert refused == {3, 77}


async def test_without_dead_letters_a_record_at_fault_ends_the_consumer(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic, producer: EventProducer
) -> None:
    sink = Sink(registry)
    sink.refused = {1}
    await publish(producer, [1])
    consumer = BatchConsumer(
        kafka, group=topic.name, topics=[topic.name], handle=sink, registry=registry
    )
    with pytest.raises(InvalidArgument, match="refused"):
        await asyncio.wait_for(consumer.run(), timeout=40)


async def test_members_share_the_partitions_and_nothing_is_lost_when_one_comes_or_goes(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic, producer: EventProducer
) -> None:
    sinks = [Sink(registry), Sink(registry)]

    def consumer(sink: Sink) -> BatchConsumer:
        return BatchConsumer(
            kafka,
            group=topic.name,
            topics=[topic.name],
            handle=sink,
            registry=registry,
            retry=QUICK,
            max_wait=0.02,
        )

    sent = 0

    async def trickle() -> None:
        nonlocal sent
        while True:
            await publish(producer, range(sent, sent + 30))
            sent += 30
            await asyncio.sleep(0.02)

    def arrived(*which: int) -> set[int]:
        return {number for one in which for number in sinks[one].numbers}

    producing = asyncio.ensure_future(trickle())
    try:
        async with running(consumer(sinks[0]).run):
            await soon(lambda: len(arrived(0)) > 0)
            async with running(consumer(sinks[1]).run):
                await soon(lambda: len(arrived(1)) > 0)
                both = len(arrived(0))
                await soon(lambda: len(arrived(0)) > both)
            producing.cancel()
            await asyncio.wait([producing])
            await soon(lambda: arrived(0, 1) >= set(range(sent)))
    finally:
        producing.cancel()
    # Partitions are let go of with their offsets committed: what was handled is not handed out
    # again.
    assert len(sinks[0].numbers) + len(sinks[1].numbers) == len(arrived(0, 1))


async def test_a_batch_is_one_span_that_links_to_what_made_its_records(
    kafka: KafkaConfig,
    registry: TopicRegistry,
    topic: Topic,
    producer: EventProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(batches, "_tracer", tracer)
    sink = Sink(registry)
    made: set[int] = set()
    for number in range(3):
        with tracer.start_as_current_span("request") as span:
            made.add(span.get_span_context().span_id)
            await publish(producer, [number])
    consumer = BatchConsumer(
        kafka, group=topic.name, topics=[topic.name], handle=sink, registry=registry
    )
    async with running(consumer.run):
        await soon(lambda: len(sink.numbers) == 3)
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("process")]
    assert len(spans) == len(sink.batches)
    assert {link.context.span_id for span in spans for link in span.links} == made
