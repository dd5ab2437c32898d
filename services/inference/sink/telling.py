"""What the sink tells of the rows that it wrote: one event per table for several batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.domain.endpoint import InferenceTable
from services.inference.sink.rows import Row
from tessera.events.v1 import inference_events_pb2
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.producer import Publisher

__all__ = ["RowsTold"]

_SOURCE: Final = "tessera/inference-sink"


class RowsTold:
    """Gathers what was written until it is published as `InferenceRowsWritten`.

    Args:
        publisher: Where it is told.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._tables: dict[InferenceTable, _Written] = {}

    def add(self, table: InferenceTable, rows: Sequence[Row], token: str) -> None:
        """Rows of a table can be read.

        Args:
            table: Whose.
            rows: At least one.
            token: The same for the same rows.
        """
        written = _Written.of(rows, token)
        known = self._tables.get(table)
        self._tables[table] = written if known is None else known.merge(written)

    async def publish(self) -> None:
        """Tell all of it.

        Raises:
            BusUnavailable: The bus does not take it now; it is kept.
        """
        batches = dict(self._tables)
        if not batches:
            return
        await self._publisher.publish_many([_event(*one) for one in batches.items()])
        for table, written in batches.items():
            # Where more was written meanwhile, all is told again: that changes nothing.
            if self._tables[table] is written:
                del self._tables[table]


@dataclass(frozen=True, slots=True)
class _Written:
    """Rows of one table."""

    endpoint: str
    count: int
    first_us: int
    last_us: int
    first_id: str
    last_id: str
    digest: str

    @classmethod
    def of(cls, rows: Sequence[Row], token: str) -> Self:
        ids = [row.request_id for row in rows]
        times = [row.request_us for row in rows]
        bounds = (min(times), max(times), min(ids), max(ids))
        return cls(rows[0].endpoint, len(rows), *bounds, _digest(token))

    def merge(self, later: _Written) -> _Written:
        return _Written(
            later.endpoint,
            self.count + later.count,
            min(self.first_us, later.first_us),
            max(self.last_us, later.last_us),
            min(self.first_id, later.first_id),
            max(self.last_id, later.last_id),
            _digest(self.digest + later.digest),
        )


def _event(table: InferenceTable, written: _Written) -> Event:
    return new_event(
        inference_events_pb2.InferenceRowsWritten(
            endpoint=written.endpoint,
            table_full_name=table.full_name,
            row_count=written.count,
            first_request_time=_timestamp(written.first_us),
            last_request_time=_timestamp(written.last_us),
            first_request_id=written.first_id,
            last_request_id=written.last_id,
        ),
        source=_SOURCE,
        key=written.endpoint,
        event_id=written.digest[:36],
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _timestamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
