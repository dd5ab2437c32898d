"""The broker's logs stay short, and no group loses what it has not passed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from devstack import Stack, kafka, objectstore, start_local
from devstack.bucket import Bucket
from devstack.ports import LOOPBACK
from devstack.probes import NotReady
from devstack.secrets import ensure_credentials
from devstack.trim import Trimmer, TrimRules
from tests.helpers import eventually, unique_name

KEPT = 10


@dataclass(frozen=True)
class World:
    """A broker of its own, as the rounds here spare no young batch, and a topic on it."""

    stack: Stack
    topic: str
    trimmer: Trimmer

    @property
    def bootstrap(self) -> str:
        return self.stack.urls["kafka"]

    async def trim(self) -> int:
        return await asyncio.to_thread(self.trimmer.run)

    async def stored(self) -> list[int]:
        """The offsets at which the stored batches begin: what a fetch of new records lists."""
        prefix = f"clusters/tessera/topics/{self.topic}/partitions/0000000000/records/"

        def keys() -> list[int]:
            with _bucket(self.stack) as bucket:
                return [int(one.key[-26:-6]) for one in bucket.everything(prefix)]

        return await asyncio.to_thread(keys)

    async def send(self, numbers: Sequence[int]) -> None:
        """Each in a batch of its own, again and again until it is acknowledged."""
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for number in numbers:
                await eventually(lambda n=number: self._sent(producer, n), timeout=60)

    async def _sent(self, producer: AIOKafkaProducer, number: int) -> bool:
        try:
            await producer.send_and_wait(self.topic, b"%d" % number, partition=0)
        except KafkaError:
            return False
        return True

    @asynccontextmanager
    async def member(self, group: str | None) -> AsyncIterator[AIOKafkaConsumer]:
        """A reader from the group's offset on, from the earliest record where there is none."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
        )
        consumer.assign([TopicPartition(self.topic, 0)])
        async with consumer:
            yield consumer

    async def read(self, group: str | None, last: int) -> list[int]:
        """The numbers up to `last`, committed afterwards."""
        numbers: list[int] = []
        async with self.member(group) as consumer:
            async with asyncio.timeout(120):
                while last not in numbers:
                    numbers.append(int((await consumer.getone()).value))
            if group is not None:
                await consumer.commit()
        return numbers


def _bucket(stack: Stack) -> Bucket:
    credentials = ensure_credentials(stack.home, objectstore.NAME)
    port = int(stack.urls["s3"].rpartition(":")[2])
    return Bucket(LOOPBACK, port, objectstore.KAFKA_BUCKET, objectstore.REGION, credentials)


@pytest.fixture(scope="module")
async def broker() -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="tessera test's ") as directory:
        engines = (objectstore.NAME, kafka.NAME)
        async with start_local(Path(directory), engines=engines, services=()) as stack:
            yield stack


@pytest.fixture
async def world(broker: Stack) -> World:
    topic = unique_name("log")
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.urls["kafka"])
    await admin.start()
    try:
        configs = {"retention.ms": "3600000"}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()
    ports = {"s3": int(broker.urls["s3"].rpartition(":")[2])}
    credentials = ensure_credentials(broker.home, objectstore.NAME)
    rules = TrimRules(kept=KEPT, age=timedelta(0))
    return World(broker, topic, kafka.trimmer(ports, credentials, rules))


async def test_what_a_fetch_lists_does_not_grow_with_the_batches_that_a_log_has_had(
    world: World,
) -> None:
    step, lengths = 50, []
    for begin in range(0, 4 * step, step):
        await world.send(range(begin, begin + step))
        assert await world.read("reader", begin + step - 1) == [*range(begin, begin + step)]
        await world.trim()
        lengths.append(len(await world.stored()))
    # The last batch is not known to be passed until another one follows it.
    assert lengths == [KEPT + 1] * 4
    left = [*range(4 * step - KEPT - 1, 4 * step)]
    assert await world.stored() == left
    # Who comes new, or reads without a group, begins at the first record that is left.
    assert await world.read(None, 4 * step - 1) == left
    assert await world.read("late", 4 * step - 1) == left
    async with world.member(None) as consumer:
        partition = TopicPartition(world.topic, 0)
        assert await consumer.beginning_offsets([partition]) == {partition: left[0]}
        consumer.seek(partition, 3)
        assert (await consumer.getone()).offset == left[0]


async def test_what_one_group_has_not_passed_stays_for_it(world: World) -> None:
    await world.send(range(40))
    await world.read("slow", 19)
    await world.read("fast", 39)
    assert await world.trim() == 20 - KEPT
    await world.send(range(40, 60))
    await world.read("fast", 59)
    assert await world.trim() == 0
    assert await world.read("slow", 59) == [*range(20, 60)]
    await world.trim()
    assert await world.stored() == [*range(59 - KEPT, 60)]


async def test_a_member_that_has_committed_nothing_yet_holds_everything(world: World) -> None:
    await world.send(range(30))
    await world.read("fast", 29)
    joined = AIOKafkaConsumer(
        world.topic,
        bootstrap_servers=world.bootstrap,
        group_id="new",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=2_000,
        heartbeat_interval_ms=500,
    )
    async with joined:
        assert (await joined.getone()).offset == 0
        assert await world.trim() == 0
        assert await world.stored() == [*range(30)]


async def test_a_broker_and_a_store_that_are_killed_amid_it_lose_nothing_unpassed(
    world: World,
) -> None:
    await world.send(range(30))
    await world.read("steady", 29)
    stop = asyncio.Event()

    async def rounds() -> int:
        removed = 0
        while not stop.is_set():
            # The store may be away; the next round finds what this one left.
            with suppress(OSError, NotReady):
                removed += await world.trim()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)
        return removed

    async def more_than(number: int) -> bool:
        return (await world.stored())[-1] > number

    trimming = asyncio.create_task(rounds())
    sending = asyncio.create_task(world.send(range(30, 330)))
    try:
        for killed in (kafka.NAME, objectstore.NAME, kafka.NAME):
            last = (await world.stored())[-1]
            await eventually(lambda seen=last: more_than(seen), timeout=60)
            world.stack.kill(killed)
            await world.stack.wait_healthy(timeout=60)
        await sending
        read = await world.read("steady", 329)
        # A record whose acknowledgement was lost is sent again: none is missing, some come twice.
        assert sorted(set(read)) == [*range(30, 330)]
    finally:
        stop.set()
        removed = await trimming
    assert removed >= 20
    await world.trim()
    assert len(await world.stored()) == KEPT + 1
