"""Bodies that are too large for a row become objects, and are never dropped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.inference.capture import bodies as module
from services.inference.capture.bodies import LargeBodies
from services.inference.capture.shipper import PAYLOAD_TOPIC
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.bus.envelope import Record
from tessera_kit.bus.memory import InMemoryBus
from tessera_kit.ids import new_id
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.objects import ObjectStoreUnavailable


class FlakyObjects(InMemoryObjectStore):
    """Is away at first."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def put(self, key: str, data: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise ObjectStoreUnavailable("away")
        return await super().put(key, data)


def record(request: int, response: int) -> Record:
    payload = pb.PayloadRecord(
        tessera_request_id=new_id(),
        endpoint="flights",
        endpoint_id="an-id",
        request=b"r" * request,
        response=b"s" * response,
    )
    payload.request_time.FromJsonString("2026-11-26T07:00:00Z")
    headers = (("ce_id", payload.tessera_request_id.encode()),)
    return Record(PAYLOAD_TOPIC, b"key", payload.SerializeToString(), headers)


async def test_large_bodies_become_objects_over_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    bus, objects = InMemoryBus(), FlakyObjects(2)
    large, small = record(1001, 1000), record(10, 10)
    publisher = LargeBodies(bus, objects, 1000)
    for _ in range(2):
        await publisher.publish_records([large, small])
    sent = bus.records(PAYLOAD_TOPIC)
    assert [one.value for one in sent[1::2]] == [small.value] * 2
    assert sent[0].value == sent[2].value, "what is sent again is the same"
    assert sent[0].value is not None
    moved = pb.PayloadRecord.FromString(sent[0].value)
    key = f"inference-payloads/an-id/2026-11-26/{moved.tessera_request_id}.request"
    assert (moved.request, moved.request_object) == (b"", key)
    assert (moved.response, moved.response_object) == (b"s" * 1000, "")
    assert await objects.get(key) == b"r" * 1001
    assert (sent[0].key, sent[0].headers) == (large.key, large.headers)


async def test_small_ones_go_as_they_are() -> None:
    bus, objects = InMemoryBus(), FlakyObjects(1)
    records = [record(100, 100) for _ in range(3)]
    await LargeBodies(bus, objects, 1000).publish_records(records)
    assert [one.value for one in bus.records(PAYLOAD_TOPIC)] == [one.value for one in records]
    assert objects.failures == 1, "nobody asked it"


class CountingObjects(InMemoryObjectStore):
    """Knows how many bodies are on their way to it at once, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def put(self, key: str, data: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await super().put(key, data)


async def test_several_bodies_are_put_at_once_and_records_keep_their_order() -> None:
    bus, objects = InMemoryBus(), CountingObjects()
    records = [record(2000, 10) for _ in range(20)]
    await LargeBodies(bus, objects, 1000).publish_records(records)
    sent = [pb.PayloadRecord.FromString(one.value or b"") for one in bus.records(PAYLOAD_TOPIC)]
    given = [pb.PayloadRecord.FromString(one.value or b"") for one in records]
    assert [one.tessera_request_id for one in sent] == [one.tessera_request_id for one in given]
    assert objects.most == 4
