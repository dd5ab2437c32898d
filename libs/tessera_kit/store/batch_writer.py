"""Rows gathered into batches: few large inserts instead of many small ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.errors import Unavailable
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter, gauge, histogram

__all__ = ["BatchWriter", "RowSink", "WriterStopped"]

_log = logging.getLogger(__name__)

Row = Sequence[Any]


class WriterStopped(Unavailable):
    """The writer stopped before the rows were durable; they may or may not have been written."""

    reason = "WRITER_STOPPED"


class RowSink(Protocol):
    """Where batches go; `ClickHouse` is one."""

    async def insert(
        self,
        table: str,
        rows: Sequence[Row],
        column_names: Sequence[str],
        database: str | None = None,
    ) -> None:
        """Store rows; all are durable when it returns."""


class _Group(NamedTuple):
    rows: Sequence[Row]
    written: asyncio.Future[None]


class BatchWriter:
    """Writes rows of one table in batches, in the order in which they were given.

    A batch is written when it has `max_rows`, or its first row waited for `max_seconds`. A failure
    that may pass repeats the batch, and the table has to fold rows that come twice. A token of
    deduplication would not do instead: a server that was killed may know it and have lost the rows
    (ClickHouse's MergeTree notes it first). Any other failure halves the batch until the rows at
    fault stand alone: only their futures fail. Memory is bounded: `put` waits while `max_pending`
    rows are in the writer.

    Args:
        sink: Where to write.
        table: Name of the table, unquoted.
        column_names: Columns of each row, in order.
        database: Where the table is; the sink's own database when None.
        max_rows: Most rows in a batch.
        max_seconds: Longest wait of a row for others.
        max_pending: Most rows that wait.
        retry: How failures that may pass are tried again; for ever by default.
    """

    def __init__(
        self,
        sink: RowSink,
        table: str,
        column_names: Sequence[str],
        *,
        database: str | None = None,
        max_rows: int = 10_000,
        max_seconds: float = 0.25,
        max_pending: int = 100_000,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._sink = sink
        self._table = table
        self._column_names = tuple(column_names)
        self._database = database
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._max_pending = max_pending
        self._retry = retry or RetryPolicy(budget_seconds=None)
        self._groups: deque[_Group] = deque()
        self._writing: list[_Group] = []
        self._pending = 0
        self._queued = 0
        self._oldest = 0.0
        self._filled = asyncio.Event()
        self._room = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._flushing = False
        self._stopped = False

    async def start(self) -> None:
        """Begin to write."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"writer-{self._table}")

    async def stop(self, timeout: float = 10.0) -> None:
        """Write what waits, for up to `timeout` seconds, and stop; what is left fails."""
        self._stopped = True
        self._flushing = True
        self._filled.set()
        async with self._room:
            self._room.notify_all()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task], timeout=timeout)
            task.cancel()
            await asyncio.wait([task])
        while self._groups:
            _fail(self._groups.popleft(), WriterStopped("the writer stopped"))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def put(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        """Queue rows that are acknowledged together; waits while the writer is full.

        Returns:
            A future that resolves when all of them are durable, or fails with what was wrong.

        Raises:
            WriterStopped: It stopped meanwhile.
        """
        async with self._room:
            await self._room.wait_for(lambda: self._stopped or self._pending < self._max_pending)
        if self._stopped:
            raise WriterStopped("the writer stopped")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whoever does not wait for it has no use for its error either.
        written.add_done_callback(lambda future: future.cancelled() or future.exception())
        if not rows:
            written.set_result(None)
            return written
        if not self._groups:
            self._oldest = time.monotonic()
            self._filled.set()
        self._groups.append(_Group(rows, written))
        self._queued += len(rows)
        self._count(len(rows))
        if self._queued >= self._max_rows:
            self._filled.set()
        return written

    async def write(self, rows: Sequence[Row]) -> None:
        """Queue rows and return when they are durable.

        Raises:
            WriterStopped: It stopped before they were.
            QueryRejected: One of them does not fit the table; none of them was written.
        """
        await (await self.put(rows))

    async def flush(self) -> None:
        """Write what waits now, and return when it is durable or has failed."""
        waiting = [group.written for group in (*self._writing, *self._groups)]
        self._flushing = True
        self._filled.set()
        if waiting:
            await asyncio.wait(waiting)

    async def _run(self) -> None:
        while True:
            batch = self._writing = await self._next_batch()
            if not batch:
                if self._stopped:
                    return
                continue
            try:
                await self._write(batch)
            finally:
                for group in batch:
                    # Not written when the task was cancelled.
                    _fail(group, WriterStopped("the writer stopped"))
                self._count(-sum(len(group.rows) for group in batch))
                async with self._room:
                    self._room.notify_all()

    async def _next_batch(self) -> list[_Group]:
        """Wait until a batch is due and take it out of the queue."""
        if not self._groups:
            self._flushing = self._stopped
            if self._stopped:
                return []
            self._filled.clear()
            await self._filled.wait()
        while not self._flushing and self._queued < self._max_rows:
            wait = self._oldest + self._max_seconds - time.monotonic()
            if wait <= 0:
                break
            self._filled.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._filled.wait()
            except TimeoutError:
                break
        batch: list[_Group] = []
        count = 0
        while self._groups and (not batch or count + len(self._groups[0].rows) <= self._max_rows):
            batch.append(self._groups.popleft())
            count += len(batch[-1].rows)
        self._queued -= count
        self._oldest = time.monotonic()
        return batch

    async def _write(self, batch: Sequence[_Group]) -> None:
        """Write groups, or find out which of them cannot be written."""
        rows = [row for group in batch for row in group.rows]
        error = await self._insert(rows)
        if error is None:
            for group in batch:
                if not group.written.done():
                    group.written.set_result(None)
            counter(names.WRITER_ROWS).labels(self._table, "written").inc(len(rows))
        elif len(batch) == 1:
            _log.error("%s: %d rows cannot be written: %s", self._table, len(rows), error)
            _fail(batch[0], error)
            counter(names.WRITER_ROWS).labels(self._table, "failed").inc(len(rows))
        else:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])

    async def _insert(self, rows: Sequence[Row]) -> Exception | None:
        """Insert rows, again and again while failures may pass; returns the one that may not."""
        attempts = 0
        began = time.monotonic()
        while True:
            try:
                await self._sink.insert(
                    self._table,
                    rows,
                    self._column_names,
                    database=self._database,
                )
            except Exception as error:
                attempts += 1
                delay = self._retry.delay(attempts, time.monotonic() - began)
                if delay is None or not is_retryable(error):
                    return error
                _log.warning(
                    "%s: attempt %d at %d rows failed, the next is in %.2f s: %s",
                    *(self._table, attempts, len(rows), delay, error),
                )
                await asyncio.sleep(delay)
            else:
                histogram(names.WRITER_BATCH_ROWS).labels(self._table).observe(len(rows))
                return None

    def _count(self, change: int) -> None:
        self._pending += change
        gauge(names.WRITER_PENDING).labels(self._table).set(self._pending)


def _fail(group: _Group, error: Exception) -> None:
    if not group.written.done():
        group.written.set_exception(error)
