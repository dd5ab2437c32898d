"""The sink's handler: a batch of records becomes rows of several tables, each row once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from services.inference.domain.endpoint import InferenceTable
from services.inference.ports import PayloadStore, Tables
from services.inference.sink.rows import Row, UnknownEndpoint, row_of
from tessera.events.v1 import inference_events_pb2
from tessera_kit.bus.dead_letters import DeadLetters
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.producer import Publisher
from tessera_kit.errors import InvalidArgument
from tessera_kit.ids import new_id
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.propagation import recorded_cause

__all__ = ["GROUP", "PayloadSink"]

_tracer = trace.get_tracer("tessera.inference")
_log = logging.getLogger(__name__)

GROUP: Final = "inference-sink"
"""Consumer group of the sink."""
_SOURCE: Final = "tessera/inference-sink"
_RECORDS_PER_TURN: Final = 50
_HEIR_SECONDS: Final = 60.0
_MOST_DOUBTFUL: Final = 1000


class PayloadSink:
    """Handles batches of payload records; see `tessera_kit.bus.batches.BatchConsumer`.

    A record may come again: after a crash of this process or of the broker, and when the gateway's
    shipper repeats what was not acknowledged. So before every insert the table is asked which of
    the batch's ids it has. A retried insert is told by its token as well, which covers an insert
    that is still running in the database when it is asked.

    A database that was killed may know a token and not have its rows: ClickHouse's MergeTree notes
    the token first. So where an earlier insert of a token may have been cut short, here or in the
    process before this one, the table is asked afterwards too, and what it lacks goes again under
    another token.

    Args:
        tables: Where each endpoint's rows go.
        store: Where rows are written.
        publisher: Tells `InferenceRowsWritten`, and takes the dead letters.
        metrics: Where rows and lags are counted.
    """

    def __init__(
        self, tables: Tables, store: PayloadStore, publisher: Publisher, metrics: Metrics
    ) -> None:
        self._tables = tables
        self._store = store
        self._publisher = publisher
        self._dead_letters = DeadLetters(publisher)
        self._rows = metrics.counter(names.SINK_ROWS)
        self._lag = metrics.histogram(names.TABLE_LAG)
        self._duplicates = metrics.counter(names.BUS_DUPLICATES)
        self._doubtful: dict[str, None] = {}
        """Tokens of inserts that have begun and not returned, the oldest first."""
        self._heir_until = time.monotonic() + _HEIR_SECONDS
        """Until when tokens may be those of the process before this one."""

    async def handle(self, records: Sequence[ConsumedRecord]) -> None:
        """Write the records' rows; returns when all can be read, or are dead letters."""
        refused: list[tuple[ConsumedRecord, InvalidArgument]] = []
        known: dict[tuple[str, str], InferenceTable | None] = {}
        by_table: defaultdict[InferenceTable, dict[str, Row]] = defaultdict(dict)
        for number, record in enumerate(records, 1):
            if number % _RECORDS_PER_TURN == 0:
                # The next records are fetched, and heartbeats sent, in between.
                await asyncio.sleep(0)
            try:
                row = row_of(record)
                table = await self._table((row.endpoint, row.endpoint_id), known)
            except InvalidArgument as error:
                refused.append((record, error))
                continue
            if by_table[table].setdefault(row.request_id, row) is not row:
                self._duplicates.labels(record.topic, GROUP).inc()
        events = [await self._write(table, rows) for table, rows in by_table.items()]
        if events:
            await self._publisher.publish_many(events)
        for record, reason in refused:
            await self._dead_letters.put(record, GROUP, reason, 1)

    async def _table(
        self,
        endpoint: tuple[str, str],
        known: dict[tuple[str, str], InferenceTable | None],
    ) -> InferenceTable:
        """The endpoint's table; asked once per batch, as an endpoint may be made anew."""
        if endpoint not in known:
            known[endpoint] = await self._tables.table_of(*endpoint)
        table = known[endpoint]
        if table is None:
            raise UnknownEndpoint(f"endpoint: there is no endpoint {endpoint[0]!r}")
        return table

    async def _write(self, table: InferenceTable, rows: Mapping[str, Row]) -> Event:
        present = await self._store.existing(table, list(rows))
        new = [row for request_id, row in rows.items() if request_id not in present]
        if present:
            topic = next(iter(rows.values())).record.topic
            self._duplicates.labels(topic, GROUP).inc(len(present))
            _log.info("%s: %d rows were written before", table.full_name, len(present))
        token = _token(list(rows.values()))
        if new:
            began = time.time_ns()
            await self._insert(table, new, token)
            self._observe(new)
            _trace(table, new, began)
        return _rows_written(table, list(rows.values()), token)

    async def _insert(self, table: InferenceTable, rows: Sequence[Row], token: str) -> None:
        doubtful = token in self._doubtful or time.monotonic() < self._heir_until
        self._doubtful[token] = None
        if len(self._doubtful) > _MOST_DOUBTFUL:
            del self._doubtful[next(iter(self._doubtful))]
        await self._store.insert(table, rows, token)
        if doubtful:
            present = await self._store.existing(table, [row.request_id for row in rows])
            lost = [row for row in rows if row.request_id not in present]
            if lost:
                _log.warning(
                    "%s: %d rows of an insert that was cut short are written again",
                    table.full_name,
                    len(lost),
                )
                await self._store.insert(table, lost, f"{token}/{new_id()}")
        self._doubtful.pop(token, None)

    def _observe(self, rows: Sequence[Row]) -> None:
        now_us = time.time_ns() // 1000
        lag = self._lag.labels(rows[0].endpoint)
        for row in rows:
            lag.observe((now_us - row.response_us) / 1e6)
        self._rows.labels(rows[0].endpoint).inc(len(rows))


def _trace(table: InferenceTable, rows: Sequence[Row], began: int) -> None:
    """Tell the insert in the trace of each recorded request, so that it shows how a row came."""
    batch = trace.Link(trace.get_current_span().get_span_context())
    for row in rows:
        cause = recorded_cause(row.record.headers)
        if cause is None:
            continue
        _tracer.start_span(
            names.SPAN_TABLE_INSERT,
            trace.set_span_in_context(trace.NonRecordingSpan(cause)),
            trace.SpanKind.CLIENT,
            attributes={
                names.DB_SYSTEM: "clickhouse",
                names.DB_OPERATION: "INSERT",
                names.DB_COLLECTION: table.full_name,
                names.ENDPOINT: row.endpoint,
                names.REQUEST_ID: row.request_id,
                names.MESSAGING_BATCH_COUNT: len(rows),
            },
            links=(batch,) if batch.context.is_valid else (),
            start_time=began,
        ).end()


def _token(rows: Sequence[Row]) -> str:
    """The same for the same rows at the same places of the log, and for no others."""
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    digest = hashlib.sha256()
    for row in rows:
        places[row.record.topic, row.record.partition].append(row.record.offset)
        digest.update(row.request_id.encode() + b"\0")
    ranges = ";".join(
        f"{topic}/{partition}/{min(offsets)}-{max(offsets)}"
        for (topic, partition), offsets in sorted(places.items())
    )
    return f"{ranges}:{digest.hexdigest()[:32]}"


def _rows_written(table: InferenceTable, rows: Sequence[Row], token: str) -> Event:
    """Told for rows that were there before too: the process may have died before it told."""
    ids = [row.request_id for row in rows]
    times = [row.request_us for row in rows]
    return new_event(
        inference_events_pb2.InferenceRowsWritten(
            endpoint=rows[0].endpoint,
            table_full_name=table.full_name,
            row_count=len(rows),
            first_request_time=_timestamp(min(times)),
            last_request_time=_timestamp(max(times)),
            first_request_id=min(ids),
            last_request_id=max(ids),
        ),
        source=_SOURCE,
        key=rows[0].endpoint,
        event_id=hashlib.sha256(token.encode()).hexdigest()[:36],
    )


def _timestamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
