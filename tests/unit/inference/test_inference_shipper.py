"""The shipper: every record reaches the bus in order, over its outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.inference.capture import shipper as module
from services.inference.capture.bodies import LargeBodies
from services.inference.capture.lull import Lull
from services.inference.capture.reader import SpoolReader
from services.inference.capture.shipper import PAYLOAD_TOPIC, SpoolShipper
from services.inference.capture.spool import Spool
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.bus.envelope import Record
from tessera_kit.bus.memory import InMemoryBus
from tessera_kit.bus.producer import BusUnavailable, Publisher
from tessera_kit.clock import SystemClock
from tessera_kit.ids import new_id
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.objects import ObjectStore
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import eventually


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, segment_bytes=2000, max_bytes=1 << 20)
    spool.open()
    yield spool
    spool.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[SpoolReader]:
    reader = SpoolReader(tmp_path)
    reader.open()
    yield reader
    reader.close()


def shipper(
    reader: SpoolReader,
    bus: Publisher,
    metrics: Metrics | None = None,
    objects: ObjectStore | None = None,
    room: int = 1 << 20,
) -> SpoolShipper:
    bodies = LargeBodies(objects or InMemoryObjectStore(), 1000)
    clock = SystemClock()
    return SpoolShipper(
        reader,
        bodies,
        Lull(reader, clock, room),
        bus,
        metrics or Metrics(),
        clock,
        linger_seconds=0,
    )


def payload(size: int = 100) -> bytes:
    record = pb.PayloadRecord(
        tessera_request_id=new_id(), endpoint="flights", endpoint_id="an-id", request=b"r" * size
    )
    record.request_time.GetCurrentTime()
    return record.SerializeToString()


class CountingBus(InMemoryBus):
    """Notes how many records come at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    async def publish_records(self, records: Sequence[Record]) -> None:
        self.batches.append(len(records))
        await super().publish_records(records)


class FlakyBus(InMemoryBus):
    """Writes what it gets and then, for the first times, says that it did not."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def publish_records(self, records: Sequence[Record]) -> None:
        await super().publish_records(records)
        if self.failures:
            self.failures -= 1
            raise BusUnavailable("no acknowledgement")


async def test_records_become_events_of_their_topic(spool: Spool, reader: SpoolReader) -> None:
    bus = InMemoryBus()
    sent = [payload() for _ in range(50)]
    for record in sent:
        spool.append(record)
    await shipper(reader, bus).ship_all()
    events = bus.events(PAYLOAD_TOPIC)
    assert [event.data.SerializeToString() for event in events] == sent
    assert all(event.id == event.data.tessera_request_id for event in events)
    # By segment, so that a batch is one partition's and what is sent again meets its first copy.
    numbers = [int(event.key.removeprefix("spool-")) for event in events]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == numbers[-1] - numbers[0] + 1
    assert reader.pending_bytes() == 0


async def test_a_batch_is_bounded_by_its_bytes(tmp_path: Path) -> None:
    """Bounded by a thousand records, with a pause after each batch, it fell behind busy callers."""
    bus = CountingBus()
    spool = Spool(tmp_path, segment_bytes=4 << 20, max_bytes=8 << 20)
    spool.open()
    for _ in range(2000):
        spool.append(payload())
    reader = SpoolReader(tmp_path)
    reader.open()
    await shipper(reader, bus).ship_all()
    reader.close()
    spool.close()
    assert bus.batches == [2000]


async def test_records_go_on_in_the_trace_of_their_request(
    spool: Spool, reader: SpoolReader
) -> None:
    bus = InMemoryBus()
    traced = pb.PayloadRecord.FromString(payload())
    traced.trace_id, traced.span_id, traced.trace_flags = "ab" * 16, b"\1" * 8, 1
    for record in (payload(), traced.SerializeToString()):
        spool.append(record)
    await shipper(reader, bus).ship_all()
    found = [event.traceparent for event in bus.events(PAYLOAD_TOPIC)]
    assert found == [None, f"00-{'ab' * 16}-{'01' * 8}-01"]


async def test_what_is_not_acknowledged_is_sent_again(
    spool: Spool, reader: SpoolReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    bus = FlakyBus(failures=2)
    sent = [payload() for _ in range(5)]
    for record in sent:
        spool.append(record)
    await shipper(reader, bus).ship_all()
    values = [record.value for record in bus.records(PAYLOAD_TOPIC)]
    assert values == sent * 3
    assert reader.pending_bytes() == 0


async def test_large_records_wait_for_a_pause_and_small_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = InMemoryBus()
    spool = Spool(tmp_path, segment_bytes=1 << 20, max_bytes=8 << 20)
    spool.open()
    reader = SpoolReader(tmp_path)
    reader.open()
    # As if something were appended all the time.
    monkeypatch.setattr(reader, "appended_at", time.time)
    spool.append(payload())
    shipping = shipper(reader, bus, room=8 << 20)
    await asyncio.wait_for(shipping.ship_all(), 0.5)
    assert len(bus.records(PAYLOAD_TOPIC)) == 1
    spool.append(payload(100_000))
    task = asyncio.create_task(shipping.ship_all())
    await asyncio.wait([task], timeout=0.2)
    assert len(bus.records(PAYLOAD_TOPIC)) == 1
    monkeypatch.setattr(reader, "appended_at", lambda: 0.0)
    await asyncio.wait_for(task, 5)
    assert len(bus.records(PAYLOAD_TOPIC)) == 2
    reader.close()
    spool.close()


async def test_it_goes_on_with_what_comes_later(spool: Spool, reader: SpoolReader) -> None:
    bus = InMemoryBus()
    task = asyncio.create_task(shipper(reader, bus).run())
    for count in (1, 2, 3):
        spool.append(payload())
        await eventually(lambda count=count: len(bus.records(PAYLOAD_TOPIC)) == count)
    task.cancel()
    await asyncio.wait([task])


async def test_large_bodies_are_objects_when_their_records_are_on_the_bus(
    spool: Spool, reader: SpoolReader
) -> None:
    bus, objects = InMemoryBus(), InMemoryObjectStore()
    large = pb.PayloadRecord.FromString(payload())
    large.endpoint_id, large.request, large.response = "an-id", b"r" * 1001, b"s" * 1000
    for record in (payload(), large.SerializeToString(), payload()):
        spool.append(record)
    await shipper(reader, bus, objects=objects).ship_all()
    small, moved, _ = (event.data for event in bus.events(PAYLOAD_TOPIC))
    assert (small.request, small.request_object) == (b"r" * 100, "")
    assert (moved.request, moved.response, moved.response_object) == (b"", b"s" * 1000, "")
    assert await objects.get(moved.request_object) == b"r" * 1001


async def test_how_long_records_took_is_measured(spool: Spool, reader: SpoolReader) -> None:
    metrics = Metrics()
    spool.append(payload())
    await shipper(reader, InMemoryBus(), metrics).ship_all()
    count = metrics.registry.get_sample_value("tessera_spool_delay_seconds_count")
    seconds = metrics.registry.get_sample_value("tessera_spool_delay_seconds_sum")
    assert count == 1
    assert seconds is not None
    assert 0 <= seconds < 60


async def test_at_its_end_it_ships_what_is_there(spool: Spool, reader: SpoolReader) -> None:
    bus = InMemoryBus()
    sent = [payload() for _ in range(50)]
    for record in sent:
        spool.append(record)
    await shipper(reader, bus).drain(60)
    assert [record.value for record in bus.records(PAYLOAD_TOPIC)] == sent


async def test_its_end_does_not_wait_for_a_bus_that_is_away(
    spool: Spool, reader: SpoolReader
) -> None:
    spool.append(payload())
    await shipper(reader, FlakyBus(failures=1000)).drain(0.01)
    assert reader.pending_bytes() > 0
