"""One effect per event: over kills of the broker and of consumers, with relays side by side."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from devstack import Stack
from tessera_kit.bus import handling
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.outbox import OutboxRelay, outbox_tables
from tessera_kit.bus.producer import BusUnavailable, EventProducer
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.config import DatabaseConfig, KafkaConfig
from tessera_kit.store.sql import Database, UnitOfWork
from tests.helpers import eventually, unique_name
from tests.integration.kit_bus import crashing_consumer

soon = partial(eventually, timeout=60)
METADATA = sa.MetaData()
outbox_tables(METADATA)
EFFECTS = crashing_consumer.EFFECTS.to_metadata(METADATA)


@pytest.fixture
def topic() -> Topic:
    return Topic(f"test.{unique_name()}.v1", 2, 1, (Int64Value, StringValue), "the number")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "service.db"


@asynccontextmanager
async def opened(file: Path) -> AsyncIterator[Database]:
    async with Database(DatabaseConfig(f"sqlite+aiosqlite:///{file}")) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield database


@pytest.fixture
async def database(file: Path) -> AsyncIterator[Database]:
    async with opened(file) as database:
        yield database


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


def number(n: int) -> Event:
    return new_event(Int64Value(value=n), source="test", key=str(n))


async def effects(database: Database) -> Counter[int]:
    async with database.sessions() as session:
        return Counter(await session.scalars(sa.select(EFFECTS.c.n)))


async def has_effects(database: Database, count: int) -> bool:
    return len(await effects(database)) >= count


async def tell(database: Database, registry: TopicRegistry, numbers: range) -> None:
    async with UnitOfWork(database, registry) as uow:
        for n in numbers:
            uow.publish(number(n))
        await uow.commit()


async def waiting(database: Database) -> int:
    async with database.sessions() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(OUTBOX)) or 0


async def nothing_waits(database: Database) -> bool:
    return await waiting(database) == 0


async def test_each_event_has_one_effect_over_kills_of_the_broker(
    local_stack: Stack,
    kafka: KafkaConfig,
    registry: TopicRegistry,
    topic: Topic,
    database: Database,
) -> None:
    total = 600
    async with EventProducer(kafka, registry=registry) as producer:
        runner = ConsumerRunner(
            kafka,
            group=topic.name,
            handlers={Int64Value: crashing_consumer.handle},
            unit_of_work=lambda: UnitOfWork(database, registry),
            dead_letters=producer,
            registry=registry,
        )
        async with running(runner.run, OutboxRelay(database, producer).run):
            await tell(database, registry, range(10))
            await soon(lambda: has_effects(database, 10))
            for start in range(10, total, 10):
                await tell(database, registry, range(start, start + 10))
                if start in {100, 400}:
                    await local_stack.wait_healthy("kafka")
                    local_stack.kill("kafka")
                await asyncio.sleep(0.005)
            await local_stack.wait_healthy("kafka")
            await soon(lambda: has_effects(database, total))
            await soon(lambda: nothing_waits(database))
    assert await effects(database) == Counter(range(total))


async def test_each_event_has_one_effect_over_kills_of_the_consumer(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic, database: Database, file: Path
) -> None:
    total = 5_000

    async def start() -> asyncio.subprocess.Process:
        script = str(Path(crashing_consumer.__file__))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, script, kafka.bootstrap, str(kafka.session_seconds)),
            *(str(file), topic.name),
        )

    async with EventProducer(kafka, registry=registry) as producer:
        await producer.publish_many(number(n) for n in range(total))
        process = await start()
        try:
            # Killed as soon as it begins, then once more in the middle.
            for count in (1, total // 2):
                await soon(lambda count=count: has_effects(database, count))
                process.kill()
                await process.wait()
                process = await start()
            await soon(lambda: has_effects(database, total))
        finally:
            process.kill()
            await process.wait()
    assert await effects(database) == Counter(range(total))


async def test_an_event_reaches_the_bus_at_once_when_it_is_committed(
    kafka: KafkaConfig, registry: TopicRegistry, database: Database
) -> None:
    producer = EventProducer(kafka, registry=registry)
    # The relay would look by itself only after an hour.
    relay = OutboxRelay(database, producer, poll_seconds=3600)
    async with producer, running(relay.run):
        for start in range(3):
            await tell(database, registry, range(start, start + 1))
            await eventually(lambda: nothing_waits(database), timeout=5)


async def test_relays_side_by_side_publish_each_event_once_and_in_order(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic, database: Database, file: Path
) -> None:
    seen: list[int] = []

    async def remember(event: Event, _: object) -> None:
        seen.append(event.data.value)  # type: ignore[attr-defined]

    def same_key(n: int) -> Event:
        return new_event(Int64Value(value=n), source="test", key="one")

    async with EventProducer(kafka, registry=registry) as producer, opened(file) as other:
        relays = [
            OutboxRelay(one, producer, poll_seconds=0.02, batch=7) for one in (database, other)
        ]
        first = asyncio.ensure_future(relays[0].run())
        async with running(relays[1].run):
            for n in range(200):
                async with UnitOfWork(database if n % 2 else other, registry) as uow:
                    uow.publish(same_key(n))
                    await uow.commit()
                if n == 100:
                    # The other one takes over.
                    first.cancel()
                    await asyncio.wait([first])
            await soon(lambda: nothing_waits(database))
        runner = ConsumerRunner(
            kafka,
            group=topic.name,
            handlers={Int64Value: remember},
            unit_of_work=None,
            dead_letters=producer,
            registry=registry,
        )
        async with running(runner.run):
            await soon(lambda: len(set(seen)) >= 200)
    # The one that was cancelled may have published a batch that it could not mark any more.
    once = list(dict.fromkeys(seen))
    assert once == list(range(200))
    assert len(seen) - len(once) <= 7


async def test_a_bus_that_is_away_is_said_in_time(registry: TopicRegistry) -> None:
    producer = EventProducer(KafkaConfig("127.0.0.1:1"), registry=registry, delivery_seconds=0.3)
    async with producer:
        for attempt in (
            producer.publish(number(1)),
            producer.publish_many([number(1), number(2)]),
            producer.send_raw("topic", b"k", b"v"),
        ):
            with pytest.raises(BusUnavailable):
                await asyncio.wait_for(attempt, timeout=5)


async def test_a_consumer_begins_before_the_broker_does(
    kafka: KafkaConfig, registry: TopicRegistry, topic: Topic
) -> None:
    """The run keeps trying, and ends promptly when it is cancelled meanwhile."""
    away = KafkaConfig("127.0.0.1:1")
    async with EventProducer(away, registry=registry) as producer:
        runner = ConsumerRunner(
            away,
            group=topic.name,
            handlers={Int64Value: crashing_consumer.handle},
            unit_of_work=None,
            dead_letters=producer,
            registry=registry,
        )
        task = asyncio.ensure_future(runner.run())
        done, _ = await asyncio.wait([task], timeout=1)
        assert not done
        task.cancel()
        await asyncio.wait_for(asyncio.wait([task]), timeout=10)
        assert task.cancelled()


async def test_one_trace_shows_a_request_and_what_its_event_caused(
    kafka: KafkaConfig,
    registry: TopicRegistry,
    topic: Topic,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(handling, "_tracer", tracer)
    inside: list[int] = []

    async def handle(event: Event, uow: UnitOfWork) -> None:
        inside.append(trace.get_current_span().get_span_context().trace_id)

    async with EventProducer(kafka, registry=registry) as producer:
        with tracer.start_as_current_span("request") as request:
            async with UnitOfWork(database, registry) as uow:
                uow.publish(number(1))
                await uow.commit()
        await OutboxRelay(database, producer).drain()
        runner = ConsumerRunner(
            kafka,
            group=topic.name,
            handlers={Int64Value: handle},
            unit_of_work=lambda: UnitOfWork(database, registry),
            dead_letters=producer,
            retry=RetryPolicy(),
            registry=registry,
        )
        async with running(runner.run):
            await soon(lambda: len(inside) > 0)
    (span,) = [span for span in exporter.get_finished_spans() if span.name.startswith("process")]
    assert span.name == f"process {topic.name}"
    assert inside == [request.get_span_context().trace_id]
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id
    assert [link.context.span_id for link in span.links] == [request.get_span_context().span_id]
    assert span.attributes is not None
    assert span.attributes["messaging.destination.name"] == topic.name
