"""Records are fetched while others are worked on, one batch at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import ConsumerRecord, TopicPartition

from tessera_kit.bus.gathering import Gathering
from tests.helpers import eventually

TOPIC = "test.gathering.v1"
FAR = 1e9


class Broker:
    """The part of the client that fetches; records are numbers, one byte each."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.error: Exception | None = None
        self._told = asyncio.Event()

    def tell(self, *numbers: int) -> None:
        self.waiting += numbers
        self._told.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._told.set()

    async def getmany(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
        assert max_records > 0
        await self._told.wait()
        if self.error is not None:
            raise self.error
        found, self.waiting = self.waiting[:max_records], self.waiting[max_records:]
        if not self.waiting:
            self._told.clear()
        return {TopicPartition(TOPIC, 0): [record(number) for number in found]}


def record(number: int) -> ConsumerRecord[None, bytes]:
    return ConsumerRecord(TOPIC, 0, number, 0, 0, None, b"x", None, 0, 1, ())


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def gathering(broker: Broker) -> AsyncIterator[Gathering]:
    gathering = Gathering(broker, "group", max_records=5, max_bytes=100)
    task = asyncio.create_task(gathering.run())
    yield gathering
    task.cancel()
    await asyncio.wait([task])


def offsets(records: Any) -> list[int]:
    return [one.offset for one in records]


async def test_what_comes_while_others_are_worked_on_is_the_next_batch(
    broker: Broker, gathering: Gathering
) -> None:
    broker.tell(1)
    assert offsets(await gathering.take(0)) == [1]
    broker.tell(2)
    await eventually(lambda: not broker.waiting)
    broker.tell(3)
    await eventually(lambda: not broker.waiting)
    assert offsets(await gathering.take(0)) == [2, 3]


async def test_a_full_batch_is_not_waited_for_and_nothing_is_fetched_beyond_it(
    broker: Broker, gathering: Gathering
) -> None:
    broker.tell(*range(12))
    assert offsets(await gathering.take(FAR)) == [0, 1, 2, 3, 4]
    await eventually(lambda: len(broker.waiting) == 2)
    assert offsets(await gathering.take(FAR)) == [5, 6, 7, 8, 9]
    assert offsets(await gathering.take(0)) == [10, 11]


async def test_bytes_fill_a_batch_too(broker: Broker) -> None:
    gathering = Gathering(broker, "group", max_records=100, max_bytes=3)
    task = asyncio.create_task(gathering.run())
    broker.tell(1, 2, 3, 4)
    assert offsets(await gathering.take(FAR)) == [1, 2, 3, 4]
    task.cancel()
    await asyncio.wait([task])


async def test_a_batch_of_bytes_is_left_by_few_records_however_many_wait(broker: Broker) -> None:
    """Five thousand compressed records of 4 KB came at once, and the database had no memory."""
    gathering = Gathering(broker, "group", max_records=1000, max_bytes=3)
    task = asyncio.create_task(gathering.run())
    broker.tell(*range(200))
    assert offsets(await gathering.take(FAR)) == list(range(50))
    await eventually(lambda: len(broker.waiting) == 100)
    task.cancel()
    await asyncio.wait([task])


async def test_what_is_not_begun_is_forgotten_with_its_partitions(
    broker: Broker, gathering: Gathering
) -> None:
    broker.tell(*range(7))
    await eventually(lambda: len(broker.waiting) == 2)
    gathering.forget()
    await eventually(lambda: not broker.waiting)
    assert offsets(await gathering.take(0)) == [5, 6]


async def test_nothing_for_a_while_is_an_empty_batch(gathering: Gathering) -> None:
    assert await gathering.take(0) == []


async def test_a_failure_of_the_broker_ends_it(broker: Broker) -> None:
    gathering = Gathering(broker, "group", max_records=5, max_bytes=100)
    broker.fail(KafkaConnectionError("away"))
    with pytest.raises(KafkaConnectionError):
        await gathering.run()
