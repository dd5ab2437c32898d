"""Sends the spool's records to the bus, in order, for as long as the process runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from services.inference.capture.spool import Spool
from tessera.events.v1 import inference_events_pb2
from tessera_kit.bus.envelope import PROTOBUF, Record
from tessera_kit.bus.producer import BusUnavailable, Publisher
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["SpoolShipper"]

_log = logging.getLogger(__name__)

PAYLOAD_TOPIC: Final = "tessera.inference.payload.v1"
_SOURCE: Final = b"tessera/inference"
_TYPE: Final = inference_events_pb2.PayloadRecord.DESCRIPTOR.full_name.encode()
_BATCH_BYTES: Final = 1 << 20
_LARGE_BATCH_BYTES: Final = 8 << 20
"""Of a batch of large records, several of which the object store takes at once."""
_LARGE_RECORD: Final = 64 << 10
_BATCH_RECORDS: Final = 1000
_RECORDS_PER_TURN: Final = 50
_RETRY_SECONDS: Final = 0.5


class SpoolShipper:
    """Reads batches from the spool and publishes them; one batch is on its way at a time.

    A batch whose acknowledgement did not come is published again: the sink writes each request id
    once. Records are keyed by their spool segment, so that a batch is one partition's (the broker
    and its object store work once for it, and not once per partition) and what is published again
    meets its first copy.

    Args:
        spool: Opened.
        publisher: Where records go.
        metrics: Where records and pending bytes are counted.
        linger_seconds: How long to let records gather when there are few. Each batch costs the
            broker the same, however many records it has, and more than they do.
    """

    def __init__(
        self, spool: Spool, publisher: Publisher, metrics: Metrics, *, linger_seconds: float = 0.25
    ) -> None:
        self._spool = spool
        self._publisher = publisher
        self._linger_seconds = linger_seconds
        self._batch_bytes = _BATCH_BYTES
        self._many = False
        """Whether the next batch is worth sending at once."""
        self._shipped = metrics.counter(names.SPOOL_RECORDS).labels("shipped")
        metrics.gauge(names.SPOOL_PENDING).set_function(lambda: spool.pending_bytes)

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            await self._spool.wait()
            await asyncio.sleep(self._linger_seconds)
            while await self._ship_batch():
                if not self._many:
                    await asyncio.sleep(self._linger_seconds)

    async def ship_all(self) -> None:
        """Ship until the spool is empty."""
        while await self._ship_batch():
            pass

    async def _ship_batch(self) -> bool:
        """Ship the next batch; False when there was none."""
        start = self._spool.shipped
        batch = self._spool.read(start, max_bytes=self._batch_bytes, max_records=_BATCH_RECORDS)
        if batch.records:
            key = b"spool-%d" % batch.end.segment
            await self._publish(await _records_of(batch.records, key))
            self._shipped.inc(len(batch.records))
            are_large = sum(map(len, batch.records)) > _LARGE_RECORD * len(batch.records)
            self._batch_bytes = _LARGE_BATCH_BYTES if are_large else _BATCH_BYTES
        self._spool.ship(batch.end)
        self._many = self._spool.pending_bytes >= _BATCH_BYTES // 2
        return bool(batch.records)

    async def _publish(self, records: Sequence[Record]) -> None:
        while True:
            try:
                await self._publisher.publish_records(records)
                return
            except BusUnavailable as error:
                _log.warning("payloads wait in the spool: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)


async def _records_of(batch: Sequence[bytes], key: bytes) -> list[Record]:
    """What is published; requests have their turn in between."""
    records: list[Record] = []
    for start in range(0, len(batch), _RECORDS_PER_TURN):
        records += [_record(data, key) for data in batch[start : start + _RECORDS_PER_TURN]]
        await asyncio.sleep(0)
    return records


def _record(data: bytes, key: bytes) -> Record:
    payload = inference_events_pb2.PayloadRecord.FromString(data)
    request_id = payload.tessera_request_id.encode()
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", request_id),
        ("ce_type", _TYPE),
        ("ce_source", _SOURCE),
        ("content-type", PROTOBUF.encode()),
    ]
    if payload.trace_id and payload.span_id:
        text = f"00-{payload.trace_id}-{payload.span_id.hex()}-{payload.trace_flags:02x}"
        headers.append(("traceparent", text.encode()))
    return Record(PAYLOAD_TOPIC, key, data, tuple(headers))
