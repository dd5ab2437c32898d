"""Bodies that are too large for a row go to the object store on their way to the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from services.inference.domain.bodies import Side, body_key
from tessera.events.v1 import inference_events_pb2
from tessera_kit.bus.envelope import Record
from tessera_kit.bus.event import Event
from tessera_kit.bus.producer import Publisher
from tessera_kit.store.objects import (
    ObjectStore,
    ObjectStoreFailure,
    ObjectStoreUnavailable,
)

__all__ = ["LargeBodies"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.5
_AT_ONCE: Final = 4
"""Records whose bodies are on their way to the store; requests are answered on the same loop."""


class LargeBodies:
    """A publisher of payload records whose large bodies become objects, and the record says where.

    A record waits for the object store as it does for the bus, so no body is dropped. One that is
    published again puts its bodies under the same keys.

    Args:
        publisher: Where records go.
        objects: Where large bodies go.
        largest: Bytes above which a body becomes an object.
    """

    def __init__(self, publisher: Publisher, objects: ObjectStore, largest: int) -> None:
        self._publisher = publisher
        self._objects = objects
        self._largest = largest
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def publish(self, event: Event) -> None:
        """See `Publisher.publish`."""
        await self._publisher.publish(event)

    async def publish_many(self, events: Iterable[Event]) -> None:
        """See `Publisher.publish_many`."""
        await self._publisher.publish_many(events)

    async def publish_records(self, records: Sequence[Record]) -> None:
        """Write payload records; returns when they and their bodies are durable."""
        if any(record.size() > self._largest for record in records):
            async with asyncio.TaskGroup() as group:
                changing = [
                    group.create_task(self._without_large_bodies(record)) for record in records
                ]
            records = [task.result() for task in changing]
        await self._publisher.publish_records(records)

    async def _without_large_bodies(self, record: Record) -> Record:
        if record.value is None or len(record.value) <= self._largest:
            return record
        async with self._turns:
            return await self._with_objects(record, record.value)

    async def _with_objects(self, record: Record, value: bytes) -> Record:
        payload = inference_events_pb2.PayloadRecord.FromString(value)
        for side in Side:
            body: bytes = getattr(payload, side.value)
            if len(body) > self._largest:
                key = _key(payload, side)
                await self._put(key, body)
                payload.ClearField(side.value)
                setattr(payload, f"{side.value}_object", key)
        return replace(record, value=payload.SerializeToString())

    async def _put(self, key: str, body: bytes) -> None:
        while True:
            try:
                await self._objects.put(key, body)
                return
            except (ObjectStoreUnavailable, ObjectStoreFailure) as error:
                _log.warning("payloads wait for the object store: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)


def _key(payload: inference_events_pb2.PayloadRecord, side: Side) -> str:
    # Bodies are kept only of requests that were admitted, so the endpoint's id is known.
    day = payload.request_time.ToDatetime().date()
    return body_key(payload.endpoint_id, day, payload.tessera_request_id, side)
