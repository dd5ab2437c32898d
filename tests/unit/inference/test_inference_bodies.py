"""Bodies that are too large for a row become objects, and are never dropped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.inference.capture import bodies as module
from services.inference.capture.bodies import LargeBodies
from tessera.events.v1 import inference_events_pb2 as pb
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


def payload(request: int, response: int) -> pb.PayloadRecord:
    made = pb.PayloadRecord(
        tessera_request_id=new_id(),
        endpoint="flights",
        endpoint_id="an-id",
        request=b"r" * request,
        response=b"s" * response,
    )
    made.request_time.FromJsonString("2026-11-26T07:00:00Z")
    return made


def copy_of(record: pb.PayloadRecord) -> pb.PayloadRecord:
    return pb.PayloadRecord.FromString(record.SerializeToString())


async def test_large_bodies_become_objects_over_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    objects = FlakyObjects(2)
    large, small = payload(1001, 1000), payload(10, 10)
    bodies = LargeBodies(objects, 1000)
    lives = [[copy_of(large), copy_of(small)] for _ in range(2)]
    for records in lives:
        assert await bodies.move(records) == [0]
    assert lives[0] == lives[1], "what is sent again is the same"
    moved, kept = lives[0]
    assert kept == small
    key = f"inference-payloads/an-id/2026-11-26/{large.tessera_request_id}.request"
    assert (moved.request, moved.request_object) == (b"", key)
    assert (moved.response, moved.response_object) == (b"s" * 1000, "")
    assert await objects.get(key) == b"r" * 1001


async def test_small_ones_stay_as_they_are() -> None:
    objects = FlakyObjects(1)
    records = [payload(100, 100) for _ in range(3)]
    given = [copy_of(one) for one in records]
    assert await LargeBodies(objects, 1000).move(records) == []
    assert records == given
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


async def test_few_bodies_are_put_at_once() -> None:
    objects = CountingObjects()
    records = [payload(2000, 2000) for _ in range(20)]
    assert await LargeBodies(objects, 1000).move(records) == list(range(20))
    assert all(one.request_object and one.response_object for one in records)
    assert objects.most == 2
