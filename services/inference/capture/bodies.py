"""Bodies that are too large for a row go to the object store on their way to the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from services.inference.domain.bodies import Side, body_key
from tessera.events.v1 import inference_events_pb2
from tessera_kit.store.objects import (
    ObjectStore,
    ObjectStoreFailure,
    ObjectStoreUnavailable,
)

__all__ = ["LargeBodies"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.5
_AT_ONCE: Final = 2
"""Bodies on their way to the store: it may be on the gateway's machine, at its priority."""


class LargeBodies:
    """Moves large bodies from payload records to the object store; the record says where.

    A record waits for the object store as it does for the bus, so no body is dropped. One that is
    moved again is put under the same key.

    Args:
        objects: Where large bodies go.
        largest: Bytes above which a body becomes an object.
    """

    def __init__(self, objects: ObjectStore, largest: int) -> None:
        self._objects = objects
        self._largest = largest
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def move(self, payloads: Sequence[inference_events_pb2.PayloadRecord]) -> list[int]:
        """Put the large bodies of records into the store; returns when they are durable.

        Returns:
            The places of the records that were changed.
        """
        async with asyncio.TaskGroup() as group:
            moving = [
                (place, group.create_task(self._move(payload, side)))
                for place, payload in enumerate(payloads)
                for side in Side
                if len(getattr(payload, side.value)) > self._largest
            ]
        return sorted({place for place, _ in moving})

    async def _move(self, payload: inference_events_pb2.PayloadRecord, side: Side) -> None:
        key = _key(payload, side)
        async with self._turns:
            await self._put(key, getattr(payload, side.value))
        payload.ClearField(side.value)
        setattr(payload, f"{side.value}_object", key)

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
