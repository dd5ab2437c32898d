"""A stream of metrics that a training loop writes to without ever waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2, tracking_service_pb2_grpc
from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.errors import TesseraError
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["MetricStream"]

_MESSAGE_POINTS = 20_000
_GATHER_SECONDS = 0.05


@dataclass(slots=True)
class _Columns:
    steps: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Batch:
    series: list[tracking_pb2.MetricSeries]
    points: int


class MetricStream:
    """Points of one run on their way to the platform.

    `log` may be called from any thread and only writes to memory; a task of the client's event loop
    sends what gathered, sends it again after an outage (points are a set, so nothing doubles), and
    forgets it when the platform says that it is durable. At most `most_waiting` points wait; what
    is logged beyond is dropped and counted.

        with client.tracking.stream_metrics(run_id) as stream:
            for step in range(1_000_000):
                stream.log({"loss": loss}, step=step)

    Leaving the block, or `close`, waits until everything is durable; `async with` and `aclose` do
    so without blocking. It is made by the client.
    """

    def __init__(
        self,
        stub: tracking_service_pb2_grpc.TrackingServiceStub,
        run_id: str,
        *,
        most_waiting: int,
    ) -> None:
        self._stub = stub
        self._run_id = run_id
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._columns: dict[str, _Columns] = {}
        self._gathered = 0
        self._unacknowledged: deque[_Batch] = deque()
        self._first_sequence = 1
        self._generation = 0
        self._is_closing = False
        self._is_told = False
        self._failure: TesseraError | None = None
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"metrics of {run_id}")
        self.dropped = 0
        """How many points found no room."""

    def log(
        self, metrics: Mapping[str, float], *, step: int = 0, time_us: int | None = None
    ) -> None:
        """Takes points of one step; returns at once.

        Args:
            metrics: Values by name.
            step: The step at which they were measured.
            time_us: When, in microseconds since 1970; now when None.

        Raises:
            TesseraError: Earlier points were refused, as when the run was deleted.
        """
        now = time.time_ns() // 1000 if time_us is None else time_us
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._is_closing:
                raise RuntimeError("the stream is closed")
            if self._gathered + len(metrics) > self._most_waiting:
                self.dropped += len(metrics)
                return
            for key, value in metrics.items():
                columns = self._columns.get(key)
                if columns is None:
                    columns = self._columns[key] = _Columns()
                columns.steps.append(step)
                columns.times.append(now)
                columns.values.append(value)
            self._gathered += len(metrics)
            is_told, self._is_told = self._is_told, True
        if not is_told:
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self) -> None:
        """Waits until everything is durable; not on the client's own event loop.

        Raises:
            TesseraError: Points were refused.
        """
        asyncio.run_coroutine_threadsafe(self._closed(), self._loop).result()

    async def aclose(self) -> None:
        """As `close`, on an event loop."""
        work: Coroutine[Any, Any, None] = self._closed()
        if asyncio.get_running_loop() is self._loop:
            await work
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _closed(self) -> None:
        with self._lock:
            self._is_closing = True
        self._wake.set()
        await self._task
        if self._failure is not None:
            raise self._failure

    async def _run(self) -> None:
        policy = RetryPolicy(initial_seconds=0.2)
        failures, failing_since = 0, 0.0
        while True:
            try:
                async for answer in self._stub.StreamMetrics(self._requests()):
                    failures = 0
                    self._acknowledge(answer.durable_sequence)
                return
            except grpc.aio.AioRpcError as error:
                failure = error_from_rpc(error)
            failing_since = failing_since if failures else time.monotonic()
            failures += 1
            delay = policy.delay(failures, time.monotonic() - failing_since)
            if delay is None or not is_retryable(failure):
                with self._lock:
                    self._failure = failure
                return
            await asyncio.sleep(delay)

    async def _requests(self) -> AsyncIterator[tracking_service_pb2.StreamMetricsRequest]:
        """Yield what is not acknowledged, then what gathers, until the stream is closed."""
        self._generation += 1
        generation = self._generation
        self._first_sequence, sequence = 1, 0
        for batch in list(self._unacknowledged):
            sequence += 1
            yield self._request(batch, sequence)
        while generation == self._generation:
            batch_or_none = self._take()
            if batch_or_none is not None:
                sequence += 1
                self._unacknowledged.append(batch_or_none)
                yield self._request(batch_or_none, sequence)
            elif self._is_closing:
                return
            else:
                await self._wake.wait()
                self._wake.clear()
                if not self._is_closing:
                    await asyncio.sleep(_GATHER_SECONDS)

    def _request(self, batch: _Batch, sequence: int) -> tracking_service_pb2.StreamMetricsRequest:
        return tracking_service_pb2.StreamMetricsRequest(
            run_id=self._run_id, series=batch.series, sequence=sequence
        )

    def _take(self) -> _Batch | None:
        """Take what gathered; a message's worth at most, the rest stays."""
        with self._lock:
            columns, self._columns = self._columns, {}
            self._is_told = False
            series: list[tracking_pb2.MetricSeries] = []
            room = _MESSAGE_POINTS
            for key, those in columns.items():
                count = min(room, len(those.values))
                if count:
                    series.append(
                        tracking_pb2.MetricSeries(
                            key=key,
                            steps=those.steps[:count],
                            times_us=those.times[:count],
                            values=those.values[:count],
                        )
                    )
                    room -= count
                if count < len(those.values):
                    self._columns[key] = _Columns(
                        those.steps[count:], those.times[count:], those.values[count:]
                    )
        if not series:
            return None
        return _Batch(series, _MESSAGE_POINTS - room)

    def _acknowledge(self, durable_sequence: int) -> None:
        while self._unacknowledged and self._first_sequence <= durable_sequence:
            batch = self._unacknowledged.popleft()
            self._first_sequence += 1
            with self._lock:
                self._gathered -= batch.points
