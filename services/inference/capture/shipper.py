"""Sends the spool's records to the bus, in order, for as long as the process runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC
from typing import Final

from services.inference.capture.bodies import LargeBodies
from services.inference.capture.lull import Lull
from services.inference.capture.reader import SpoolBatch, SpoolReader
from tessera.events.v1 import inference_events_pb2
from tessera_kit.bus.envelope import PROTOBUF, Record
from tessera_kit.bus.producer import BusUnavailable, Publisher
from tessera_kit.clock import Clock
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["BATCH_BYTES", "PAYLOAD_TOPIC", "SpoolShipper"]

_log = logging.getLogger(__name__)

PAYLOAD_TOPIC: Final = "tessera.inference.payload.v1"
_SOURCE: Final = b"tessera/inference"
_TYPE: Final = inference_events_pb2.PayloadRecord.DESCRIPTOR.full_name.encode()
BATCH_BYTES: Final = 4 << 20
"""Of a batch of usual records: each costs the bus two objects, however many it has."""
_LARGE_BATCH_BYTES: Final = 8 << 20
"""Of a batch of large records, several of which the object store takes at once."""
_LARGE_RECORD: Final = 64 << 10
_BATCH_RECORDS: Final = 4000
"""Never what bounds a batch of usual records: with 1,000 the pause between batches did, and rows
came ever later above 2,400 requests a second."""
_RETRY_SECONDS: Final = 0.5


class SpoolShipper:
    """Reads batches from the spool and publishes them; one batch is on its way at a time.

    A batch whose acknowledgement did not come is published again: the sink writes each request id
    once. Records are keyed by their spool segment, so that a batch is one partition's (the broker
    and its object store work once for it, and not once per partition) and what is published again
    meets its first copy.

    Args:
        reader: Opened.
        bodies: Takes those that are too large for a row.
        lull: What batches of large records wait for.
        publisher: Where records go.
        metrics: Where records and their delay are counted.
        clock: Tells how old they are.
        linger_seconds: How long to let records gather when there are few. Each batch costs the
            broker the same, however many records it has, and more than they do.
    """

    def __init__(
        self,
        reader: SpoolReader,
        bodies: LargeBodies,
        lull: Lull,
        publisher: Publisher,
        metrics: Metrics,
        clock: Clock,
        *,
        linger_seconds: float = 0.3,
    ) -> None:
        self._reader = reader
        self._bodies = bodies
        self._lull = lull
        self._publisher = publisher
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._batch_bytes = BATCH_BYTES
        self._shipped = metrics.counter(names.SPOOL_RECORDS).labels("shipped")
        self._delay = metrics.histogram(names.SPOOL_DELAY)

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            batch = await self._ship_batch()
            if not batch.is_cut:
                await asyncio.sleep(self._linger_seconds)

    async def ship_all(self) -> None:
        """Ship until the spool is empty."""
        while (await self._ship_batch()).records:
            pass

    async def drain(self, seconds: float) -> None:
        """Ship until the spool is empty, for so long at most; the rest waits for the next start."""
        try:
            async with asyncio.timeout(seconds):
                await self.ship_all()
        except TimeoutError:
            _log.warning("%d bytes stay in the spool", self._reader.pending_bytes())

    async def _ship_batch(self) -> SpoolBatch:
        """Ship the next batch, which has no records when there was none."""
        batch = self._reader.read(
            self._reader.shipped, max_bytes=self._batch_bytes, max_records=_BATCH_RECORDS
        )
        if batch.records:
            payloads = [inference_events_pb2.PayloadRecord.FromString(one) for one in batch.records]
            are_large = sum(map(len, batch.records)) > _LARGE_RECORD * len(payloads)
            if are_large:
                await self._lull.wait(payloads)
            await self._bring(batch, payloads)
            self._batch_bytes = _LARGE_BATCH_BYTES if are_large else BATCH_BYTES
        self._reader.ship(batch.end)
        return batch

    async def _bring(
        self, batch: SpoolBatch, payloads: Sequence[inference_events_pb2.PayloadRecord]
    ) -> None:
        values = list(batch.records)
        for place in await self._bodies.move(payloads):
            values[place] = payloads[place].SerializeToString()
        key = b"spool-%d" % batch.end.segment
        await self._publish([_record(*one, key) for one in zip(payloads, values, strict=True)])
        self._shipped.inc(len(values))
        oldest = payloads[0].request_time.ToDatetime(UTC)
        self._delay.observe(max(0.0, (self._clock.now() - oldest).total_seconds()))

    async def _publish(self, records: Sequence[Record]) -> None:
        while True:
            try:
                await self._publisher.publish_records(records)
                return
            except BusUnavailable as error:
                _log.warning("payloads wait in the spool: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)


def _record(payload: inference_events_pb2.PayloadRecord, data: bytes, key: bytes) -> Record:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", payload.tessera_request_id.encode()),
        ("ce_type", _TYPE),
        ("ce_source", _SOURCE),
        ("content-type", PROTOBUF.encode()),
    ]
    if payload.trace_id and payload.span_id:
        text = f"00-{payload.trace_id}-{payload.span_id.hex()}-{payload.trace_flags:02x}"
        headers.append(("traceparent", text.encode()))
    return Record(PAYLOAD_TOPIC, key, data, tuple(headers))
