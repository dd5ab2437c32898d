"""The sink's handler: a batch of records becomes rows of several tables, each row once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry import trace

from services.inference.domain.endpoint import InferenceTable
from services.inference.ports import PayloadStore, Tables
from services.inference.sink.rows import Row, RowMaker, UnknownEndpoint
from services.inference.sink.telling import RowsTold
from services.inference.sink.written import WrittenIds
from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.dead_letters import DeadLetters
from tessera_kit.bus.envelope import ConsumedRecord
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
_RECORDS_PER_TURN: Final = 50


class PayloadSink:
    """Handles batches of payload records; see `tessera_kit.bus.batches.BatchConsumer`.

    A record may come again: after a crash of this process or of the broker, and when the gateway's
    shipper repeats what was not acknowledged. So before an insert the table is asked which of the
    batch's ids it has, unless it can have none (`WrittenIds`). A retried insert is told by its
    token as well, which covers an insert that is still running in the database when it is asked.

    A database that was killed may know a token and not have its rows: ClickHouse's MergeTree notes
    the token first. So where an earlier insert of a token may have been cut short, here or in the
    process before this one, the table is asked afterwards too, and what it lacks goes again under
    another token.

    What was written is told apart from writing it (`tell`), before the offsets are committed: an
    event costs the bus what a batch of records does.

    Args:
        tables: Where each endpoint's rows go.
        store: Where rows are written.
        publisher: Tells `InferenceRowsWritten`, and takes the dead letters.
        metrics: Where rows and lags are counted.
        continuity: Since when this process alone works on its partitions.
    """

    def __init__(
        self,
        tables: Tables,
        store: PayloadStore,
        publisher: Publisher,
        metrics: Metrics,
        continuity: Continuity,
    ) -> None:
        self._tables = tables
        self._store = store
        self._publisher = publisher
        self._dead_letters = DeadLetters(publisher)
        self._rows = metrics.counter(names.SINK_ROWS)
        self._lag = metrics.histogram(names.TABLE_LAG)
        self._duplicates = metrics.counter(names.BUS_DUPLICATES)
        self._continuity = continuity
        self._maker = RowMaker()
        self._written = WrittenIds(continuity)
        self._told = RowsTold(publisher)

    async def handle(self, records: Sequence[ConsumedRecord]) -> None:
        """Write the records' rows; returns when all can be read, or are dead letters."""
        refused: list[tuple[ConsumedRecord, InvalidArgument]] = []
        known: dict[tuple[str, str], InferenceTable | None] = {}
        by_table: defaultdict[InferenceTable, dict[str, Row]] = defaultdict(dict)
        for number, record in enumerate(records, 1):
            if number % _RECORDS_PER_TURN == 0:
                # The next records are fetched, and heartbeats sent, in between.
                await asyncio.sleep(0)
                self._continuity.beat()
            try:
                row = self._maker.row_of(record)
                table = await self._table((row.endpoint, row.endpoint_id), known)
            except InvalidArgument as error:
                refused.append((record, error))
                continue
            if by_table[table].setdefault(row.request_id, row) is not row:
                self._duplicates.labels(record.topic, GROUP).inc()
        for table, rows in by_table.items():
            await self._write(table, rows)
        for record, reason in refused:
            await self._dead_letters.put(record, GROUP, reason, 1)

    async def tell(self) -> None:
        """Tell of all rows that were written since the last time; returns when that is durable.

        Raises:
            BusUnavailable: The bus does not take it now.
        """
        await self._told.publish()

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

    async def _write(self, table: InferenceTable, rows: Mapping[str, Row]) -> None:
        unsure = self._written.unsure(rows)
        present = await self._store.existing(table, unsure) if unsure else frozenset()
        new = [row for request_id, row in rows.items() if request_id not in present]
        if present:
            topic = next(iter(rows.values())).record.topic
            self._duplicates.labels(topic, GROUP).inc(len(present))
            _log.info("%s: %d rows were written before", table.full_name, len(present))
        token = _token(list(rows.values()))
        if new:
            began = time.time_ns()
            await self._insert(table, new, token, doubtful=bool(unsure))
            self._observe(new)
            _trace(table, new, began)
        # Also of rows that were there before: the process may have died before it told.
        self._told.add(table, list(rows.values()), token)

    async def _insert(
        self, table: InferenceTable, rows: Sequence[Row], token: str, *, doubtful: bool
    ) -> None:
        """Insert rows.

        Args:
            table: Where to.
            rows: Which.
            token: Theirs.
            doubtful: An earlier insert of the token may have been cut short.
        """
        ids = [row.request_id for row in rows]
        try:
            await self._store.insert(table, rows, token)
            if doubtful:
                present = await self._store.existing(table, ids)
                lost = [row for row in rows if row.request_id not in present]
                if lost:
                    _log.warning(
                        "%s: %d rows of an insert that was cut short are written again",
                        table.full_name,
                        len(lost),
                    )
                    await self._store.insert(table, lost, f"{token}/{new_id()}")
        finally:
            # Of one that failed nobody knows whether it happened: its ids are asked for next time.
            self._written.add(ids)

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
