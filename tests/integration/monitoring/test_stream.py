"""The Faust stream on a real broker: each event has its effect, also when its handler fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from devstack import Stack
from services.monitoring.adapters.faust_stream import FaustStream
from services.monitoring.domain.windows import StreamState
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.producer import EventProducer
from tessera_kit.bus.topics import REGISTRY
from tessera_kit.config import KafkaConfig
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(240)
TOPIC = "tessera.inference.rows.v1"


@pytest.fixture
def kafka(stack: Stack) -> KafkaConfig:
    # A group is formed in half of a session.
    return replace(KafkaConfig.from_env(stack.environment), session_seconds=2.0)


@contextlib.asynccontextmanager
async def running(stream: FaustStream, handle: object) -> AsyncIterator[None]:
    task = asyncio.create_task(partial(stream.run, handle)())  # type: ignore[arg-type]
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def marked(records: Sequence[ConsumedRecord], name: str) -> list[str]:
    """This test's own records: the topic is everybody's."""
    texts = [(record.value or b"").decode(errors="replace") for record in records]
    return [text for text in texts if text.startswith(name)]


async def tell(kafka: KafkaConfig, marks: list[str]) -> None:
    assert REGISTRY[TOPIC].partitions == 1
    async with EventProducer(kafka) as producer:
        for mark in marks:
            await (await producer.send_raw(TOPIC, b"endpoint", mark.encode(), ()))


async def committed(kafka: KafkaConfig, group: str) -> int:
    """Where the group would go on in the topic's one partition; -1 before its first commit."""
    partition = TopicPartition(TOPIC, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False
    )
    async with consumer:
        consumer.assign([partition])
        offset = await consumer.committed(partition)
    return -1 if offset is None else int(offset)


async def test_records_are_handled_in_order_and_not_again_once_committed(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    name, app = unique_name("mark"), unique_name("app")
    marks = [f"{name}-{i}" for i in range(6)]
    seen: list[str] = []
    states: list[StreamState | None] = []
    offsets: list[int] = []

    def stream() -> FaustStream:
        return FaustStream(kafka, TOPIC, tmp_path, app)

    async def note(stream: FaustStream, records: Sequence[ConsumedRecord]) -> None:
        texts = marked(records, name)
        if set(texts) - set(seen):
            states.append(stream.get("monitor"))
            stream.put("monitor", StreamState(len(states), len(states)))
            offsets.append(records[-1].offset)
        seen.extend(texts)

    first = stream()
    async with running(first, partial(note, first)):
        for count in (1, 2, 3):
            await tell(kafka, marks[count - 1 : count])
            await eventually(partial(set(marks[:count]).issubset, seen), timeout=60)

        async def caught_up() -> bool:
            return await committed(kafka, app) > offsets[-1]

        await eventually(caught_up, timeout=60, interval=0.2)
    assert states == [None, StreamState(1, 1), StreamState(2, 2)]
    first_life = len(seen)

    second = stream()
    async with running(second, partial(note, second)):
        await tell(kafka, marks[3:])
        await eventually(lambda: set(marks) <= set(seen), timeout=60)
    # What was not committed yet may be handled again when the partition is given out again; what
    # was never is.
    assert list(dict.fromkeys(seen)) == marks
    assert set(seen[first_life:]) == set(marks[3:])


async def test_a_record_whose_handler_fails_is_handled_again(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    name, app = unique_name("mark"), unique_name("app")
    seen: list[str] = []
    failed = 0

    async def fail_once(records: Sequence[ConsumedRecord]) -> None:
        nonlocal failed
        texts = marked(records, name)
        if f"{name}-1" in texts and not failed:
            failed += 1
            raise RuntimeError("the handler's own defect")
        seen.extend(texts)

    stream = FaustStream(kafka, TOPIC, tmp_path, app)
    async with running(stream, fail_once):
        await tell(kafka, [f"{name}-{i}" for i in range(3)])
        await eventually(lambda: f"{name}-2" in seen, timeout=90)
    assert failed == 1
    assert f"{name}-1" in seen
