"""What every bus promises: one body over the one in memory and over Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

from devstack import Stack
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.dead_letters import HEADER_PREFIX
from tessera_kit.bus.envelope import ConsumedRecord, Record, to_record
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.handling import Handler
from tessera_kit.bus.membership import consumed
from tessera_kit.bus.memory import InMemoryBus
from tessera_kit.bus.outbox import OutboxRelay, outbox_tables
from tessera_kit.bus.producer import EventProducer, EventTooLarge, Publisher
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import Topic, TopicRegistry, dead_letter_topic
from tessera_kit.config import DatabaseConfig, KafkaConfig
from tessera_kit.errors import FailedPrecondition, Unavailable
from tessera_kit.store.sql import Database, UnitOfWork
from tests.helpers import eventually as eventually_within
from tests.helpers import unique_name

METADATA = sa.MetaData()
SEEN = sa.Table(
    "seen",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("text", sa.String),
)
outbox_tables(METADATA)

# A member of a Kafka group waits some seconds for others before it is given partitions.
eventually = partial(eventually_within, timeout=30)
QUICK = RetryPolicy(initial_seconds=0.01, maximum_seconds=0.05, budget_seconds=5)


class Bus:
    """One bus under test, with a topic of its own."""

    def __init__(self, publisher: Publisher, registry: TopicRegistry, topic: str) -> None:
        self.publisher = publisher
        self.registry = registry
        self.topic = topic

    def runner(
        self,
        group: str,
        handlers: Mapping[type[Message], Handler],
        unit_of_work: Callable[[], UnitOfWork] | None,
        retry: RetryPolicy,
    ) -> Callable[[], Awaitable[None]]:
        raise NotImplementedError

    async def dead_letters(self) -> list[ConsumedRecord]:
        raise NotImplementedError

    @asynccontextmanager
    async def consuming(
        self,
        handlers: Mapping[type[Message], Handler],
        *,
        group: str = "group",
        unit_of_work: Callable[[], UnitOfWork] | None = None,
        retry: RetryPolicy = QUICK,
    ) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.runner(group, handlers, unit_of_work, retry)())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()


class MemoryBus(Bus):
    def __init__(self, bus: InMemoryBus, registry: TopicRegistry, topic: str) -> None:
        super().__init__(bus, registry, topic)
        self._bus = bus

    def runner(self, group, handlers, unit_of_work, retry):  # type: ignore[no-untyped-def]
        return self._bus.consumer(
            group=group, handlers=handlers, unit_of_work=unit_of_work, retry=retry
        ).run

    async def dead_letters(self) -> list[ConsumedRecord]:
        return self._bus.dead_letters(self.topic)


class KafkaBus(Bus):
    def __init__(self, kafka: KafkaConfig, publisher: EventProducer, **rest: Any) -> None:
        super().__init__(publisher, **rest)
        self._kafka = kafka

    def runner(self, group, handlers, unit_of_work, retry):  # type: ignore[no-untyped-def]
        return ConsumerRunner(
            self._kafka,
            group=f"{self.topic}-{group}",
            handlers=handlers,
            unit_of_work=unit_of_work,
            dead_letters=self.publisher,
            retry=retry,
            registry=self.registry,
        ).run

    async def dead_letters(self) -> list[ConsumedRecord]:
        reader = AIOKafkaConsumer(
            dead_letter_topic(self.topic),
            bootstrap_servers=self._kafka.bootstrap,
            auto_offset_reset="earliest",
        )
        found: list[ConsumerRecord] = []
        async with reader:
            ends = await reader.end_offsets(reader.assignment())
            while sum(ends.values()) > len(found):
                for records in (await reader.getmany(timeout_ms=1000)).values():
                    found += records
        return consumed(found)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield database


def text(value: str, key: str = "k", event_id: str | None = None) -> Event:
    return new_event(StringValue(value=value), source="test", key=key, event_id=event_id)


def number(value: int, key: str = "k", event_id: str | None = None) -> Event:
    return new_event(Int64Value(value=value), source="test", key=key, event_id=event_id)


class Collector:
    """A handler that remembers what it was called with."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def values(self) -> list[Any]:
        return [event.data.value for event in self.events]

    async def __call__(self, event: Event, uow: object) -> None:
        self.events.append(event)


async def rows(database: Database, count: int) -> bool:
    async with database.sessions() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(SEEN)) == count


async def letters(bus: Bus, count: int) -> bool:
    return len(await bus.dead_letters()) == count


class BusContract:
    """Subclasses give the fixture `bus`."""

    async def test_an_event_arrives_as_it_was_told(self, bus: Bus) -> None:
        collector = Collector()
        told = text("Grüße", key="schlüssel")
        await bus.publisher.publish(told)
        async with bus.consuming({StringValue: collector}):
            await eventually(lambda: len(collector.events) > 0)
        assert collector.events == [told]

    async def test_events_of_one_key_keep_their_order(self, bus: Bus) -> None:
        collector = Collector()
        async with bus.consuming({Int64Value: collector}):
            for start in range(0, 300, 100):
                await bus.publisher.publish_many(
                    [number(n, key=str(n % 7)) for n in range(start, start + 100)]
                )
            await eventually(lambda: len(collector.events) >= 300)
        by_key: dict[str, list[int]] = {}
        for event in collector.events:
            by_key.setdefault(event.key, []).append(event.data.value)
        assert by_key == {str(k): list(range(k, 300, 7)) for k in range(7)}

    async def test_each_type_goes_to_its_handler_and_others_are_passed_over(self, bus: Bus) -> None:
        texts, numbers = Collector(), Collector()
        await bus.publisher.publish_many([number(1), text("a"), number(2), text("b")])
        async with bus.consuming({StringValue: texts}, group="texts"):
            await eventually(lambda: len(texts.events) == 2)
        async with bus.consuming({StringValue: texts, Int64Value: numbers}, group="both"):
            await eventually(lambda: len(numbers.events) == 2 and len(texts.events) == 4)
        assert texts.values == ["a", "b", "a", "b"]
        assert numbers.values == [1, 2]

    async def test_a_group_goes_on_where_it_ended(self, bus: Bus) -> None:
        collector = Collector()
        await bus.publisher.publish_many([number(n) for n in range(10)])
        async with bus.consuming({Int64Value: collector}):
            await eventually(lambda: len(collector.events) == 10)
        await bus.publisher.publish_many([number(n) for n in range(10, 20)])
        async with bus.consuming({Int64Value: collector}):
            await eventually(lambda: len(collector.events) >= 20)
        assert collector.values == list(range(20))

    async def test_an_event_told_twice_has_its_effect_once(
        self, bus: Bus, database: Database
    ) -> None:
        calls: list[int] = []

        async def count(event: Event, uow: UnitOfWork) -> None:
            calls.append(event.data.value)
            await uow.session.execute(sa.insert(SEEN).values(n=event.data.value))

        def unit_of_work() -> UnitOfWork:
            return UnitOfWork(database, bus.registry)

        twice = [number(n, event_id=f"e{n}") for n in (1, 2, 1, 3, 2)]
        async with bus.consuming({Int64Value: count}, unit_of_work=unit_of_work):
            await bus.publisher.publish_many(twice)
            await eventually(lambda: len(calls) == 3)
            await bus.publisher.publish_many([*twice, number(4)])
            await eventually(lambda: len(calls) == 4)
        assert calls == [1, 2, 3, 4]
        assert await bus.dead_letters() == []

    async def test_a_failed_effect_is_rolled_back_and_tried_again(
        self, bus: Bus, database: Database
    ) -> None:
        attempts: list[int] = []

        async def fail_twice(event: Event, uow: UnitOfWork) -> None:
            attempts.append(event.data.value)
            await uow.session.execute(sa.insert(SEEN).values(n=event.data.value))
            uow.publish(text(f"about {event.data.value}"))
            if event.data.value == 2 and attempts.count(2) < 4:
                raise Unavailable("not now")

        about = Collector()
        await bus.publisher.publish_many([number(n) for n in range(5)])
        async with (
            bus.consuming(
                {Int64Value: fail_twice}, unit_of_work=lambda: UnitOfWork(database, bus.registry)
            ),
            bus.consuming({StringValue: about}, group="about"),
        ):
            await eventually(lambda: 4 in attempts)
            await eventually(lambda: rows(database, 5))
            relay = OutboxRelay(database, bus.publisher)
            await relay.drain()
            await eventually(lambda: len(about.events) == 5)
        assert about.values == [f"about {n}" for n in range(5)]
        assert attempts.count(2) >= 4
        assert await bus.dead_letters() == []

    async def test_what_cannot_be_handled_is_set_aside_with_its_reason_and_stops_nothing(
        self, bus: Bus, database: Database
    ) -> None:
        async def refuse_two(event: Event, uow: UnitOfWork) -> None:
            await uow.session.execute(sa.insert(SEEN).values(n=event.data.value))
            if event.data.value == 2:
                raise FailedPrecondition("two is refused")

        bad = number(2)
        await bus.publisher.publish_many([number(0), number(1), bad, number(3), number(4)])
        async with bus.consuming(
            {Int64Value: refuse_two}, unit_of_work=lambda: UnitOfWork(database, bus.registry)
        ):
            await eventually(lambda: rows(database, 4))
        async with database.sessions() as session:
            assert list(await session.scalars(sa.select(SEEN.c.n).order_by(SEEN.c.n))) == [
                0,
                1,
                3,
                4,
            ]
        (letter,) = await bus.dead_letters()
        sent = to_record(bad, bus.registry)
        assert (letter.key, letter.value) == (sent.key, sent.value)
        headers = dict(letter.headers)
        assert set(sent.headers) <= set(letter.headers)
        assert headers[HEADER_PREFIX + "reason"] == b"FAILED_PRECONDITION"
        assert headers[HEADER_PREFIX + "message"] == b"two is refused"
        assert headers[HEADER_PREFIX + "topic"] == bus.topic.encode()
        assert int(headers[HEADER_PREFIX + "partition"]) in {0, 1}
        assert headers[HEADER_PREFIX + "offset"] == b"2"

    async def test_a_spent_budget_ends_the_attempts(self, bus: Bus) -> None:
        attempts: list[int] = []

        async def never(event: Event, uow: object) -> None:
            attempts.append(event.data.value)
            if event.data.value == 1:
                raise Unavailable("never")

        short = RetryPolicy(initial_seconds=0.01, maximum_seconds=0.02, budget_seconds=0.2)
        await bus.publisher.publish_many([number(1), number(2)])
        async with bus.consuming({Int64Value: never}, retry=short):
            await eventually(lambda: 2 in attempts)
        (letter,) = await bus.dead_letters()
        headers = dict(letter.headers)
        assert headers[HEADER_PREFIX + "reason"] == b"UNAVAILABLE"
        assert int(headers[HEADER_PREFIX + "attempts"]) == attempts.count(1) > 3

    async def test_records_that_are_no_events_are_set_aside(self, bus: Bus) -> None:
        collector = Collector()
        good = to_record(number(7), bus.registry)
        bad = [
            Record(bus.topic, b"k", b"\xff\xff", good.headers),
            Record(bus.topic, b"k", b"value", ()),
            Record(bus.topic, None, b"", (("ce_id", b"\xff"),)),
        ]
        await bus.publisher.publish_records([*bad, good])
        async with bus.consuming({Int64Value: collector}):
            await eventually(lambda: len(collector.events) > 0)
            await eventually(lambda: letters(bus, len(bad)))
        assert collector.values == [7]
        for letter in await bus.dead_letters():
            assert dict(letter.headers)[HEADER_PREFIX + "reason"] == b"MALFORMED_EVENT"

    async def test_a_hanging_handler_is_cut_off_and_tried_again(self, bus: Bus) -> None:
        calls: list[int] = []

        async def hang_once(event: Event, uow: object) -> None:
            calls.append(event.data.value)
            if len(calls) == 1:
                await asyncio.Event().wait()

        impatient = RetryPolicy(initial_seconds=0.01, attempt_seconds=0.2)
        await bus.publisher.publish(number(1))
        async with bus.consuming({Int64Value: hang_once}, retry=impatient):
            await eventually(lambda: len(calls) == 2)
        assert await bus.dead_letters() == []

    async def test_too_large_and_undeclared_events_are_refused(self, bus: Bus) -> None:
        collector = Collector()
        with pytest.raises(EventTooLarge, match="100000"):
            await bus.publisher.publish(text("x" * 100_000))
        with pytest.raises(EventTooLarge):
            await bus.publisher.publish_many([text("small"), text("x" * 100_000)])
        with pytest.raises(LookupError, match="BytesValue"):
            await bus.publisher.publish(new_event(BytesValue(value=b"x"), source="test", key="k"))
        await bus.publisher.publish(text("last"))
        async with bus.consuming({StringValue: collector}):
            await eventually(lambda: len(collector.events) > 0)
        assert collector.values == ["last"]


@pytest.fixture
def topic() -> str:
    return f"test.{unique_name()}.v1"


@pytest.fixture
def registry(topic: str) -> TopicRegistry:
    return TopicRegistry(
        [Topic(topic, 2, 1, (StringValue, Int64Value), "any text", max_message_bytes=100_000)]
    )


class TestInMemoryBus(BusContract):
    @pytest.fixture
    def bus(self, registry: TopicRegistry, topic: str) -> Bus:
        return MemoryBus(InMemoryBus(registry), registry, topic)


class TestKafkaBus(BusContract):
    @pytest.fixture
    async def bus(self, stack: Stack, registry: TopicRegistry, topic: str) -> AsyncIterator[Bus]:
        # A group is formed in half of a session.
        kafka = replace(KafkaConfig.from_env(stack.environment), session_seconds=2.0)
        async with EventProducer(kafka, registry=registry) as producer:
            yield KafkaBus(kafka, producer, registry=registry, topic=topic)
