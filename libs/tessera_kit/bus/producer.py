"""The producer: events acknowledged by every replica, in order per key, through broker outages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, Self, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata, TopicPartition
from opentelemetry import trace
from prometheus_client import Counter, Histogram

from tessera_kit.bus.envelope import Headers, Record, to_record
from tessera_kit.bus.event import Event
from tessera_kit.bus.partition import KafkaPartitioner
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import REGISTRY, TopicRegistry, ensure_topics
from tessera_kit.config import KafkaConfig
from tessera_kit.errors import InvalidArgument, Unavailable
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter, histogram

__all__ = ["BusUnavailable", "EventProducer", "EventTooLarge", "Publisher"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("tessera_kit.bus")

_SEND = "send"
_LARGEST_REQUEST = 17 << 20
_REQUEST_MS = 15_000
# The client tries again by itself this often while the broker is away, and logs each time.
_CLIENT_BACKOFF_MS = 500
_DRAIN_SECONDS = 5.0
_RECORDS_PER_TURN = 50
_BACKOFF = RetryPolicy(initial_seconds=0.1, maximum_seconds=2.0, budget_seconds=None)


class BusUnavailable(Unavailable):
    """The broker did not acknowledge in time; the events may still arrive."""

    reason = "BUS_UNAVAILABLE"


class EventTooLarge(InvalidArgument):
    """A record is larger than its topic takes."""

    reason = "EVENT_TOO_LARGE"


class Publisher(Protocol):
    """Where events are told; `EventProducer` and `InMemoryBus` are its implementations.

    What one caller publishes under one key arrives in that order; an event may arrive more than
    once.
    """

    async def publish(self, event: Event) -> None:
        """Tell one event; returns when it is durable."""

    async def publish_many(self, events: Iterable[Event]) -> None:
        """Tell events; returns when all are durable."""

    async def publish_records(self, records: Sequence[Record]) -> None:
        """Write records as they are; returns when all are durable."""


class EventProducer:
    """Writes to Kafka with acks=all.

    `start` returns at once and connects in the background, so a service starts while the broker is
    away; what is published meanwhile waits up to `delivery_seconds`. Memory is bounded: at most two
    batches per partition are held, then callers wait.

    Args:
        kafka: Brokers.
        client_id: Name that brokers log.
        registry: Topics that are made when missing.
        linger_seconds: How long a first record waits for others to share its request.
        batch_bytes: Largest batch of one partition.
        delivery_seconds: When to give up on a record that is not acknowledged.
        compression: `lz4`, `zstd`, `gzip`, `snappy` or None.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        *,
        client_id: str = "tessera",
        registry: TopicRegistry = REGISTRY,
        linger_seconds: float = 0.002,
        batch_bytes: int = 1_000_000,
        delivery_seconds: float = 30.0,
        compression: str | None = None,
    ) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._registry = registry
        self._linger_ms = round(linger_seconds * 1000)
        self._batch_bytes = batch_bytes
        self._delivery_seconds = delivery_seconds
        self._compression = compression
        self._partitioner = KafkaPartitioner()
        self._meter = _Meter()
        self._connecting: asyncio.Task[AIOKafkaProducer] | None = None

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="bus-producer-connect")

    async def stop(self) -> None:
        """Send what is queued, for up to five seconds, and close."""
        task, self._connecting = self._connecting, None
        if task is None:
            return
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            return
        await _close(task.result())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def publish(self, event: Event) -> None:
        """Tell one event; returns when every replica has it.

        Raises:
            BusUnavailable: Not acknowledged in time; it may still arrive.
            EventTooLarge: It is larger than its topic takes.
            LookupError: No topic carries its type.
        """
        record = self._checked(to_record(event, self._registry))
        with _tracer.start_as_current_span(
            f"send {record.topic}",
            kind=trace.SpanKind.PRODUCER,
            attributes={
                names.MESSAGING_SYSTEM: "kafka",
                names.MESSAGING_OPERATION: _SEND,
                names.MESSAGING_OPERATION_TYPE: _SEND,
                names.MESSAGING_DESTINATION: record.topic,
                names.MESSAGING_MESSAGE_ID: event.id,
            },
        ):
            await self._send_one(record, time.monotonic() + self._delivery_seconds)

    async def publish_many(self, events: Iterable[Event]) -> None:
        """Tell events; returns when every replica has all of them.

        Raises:
            BusUnavailable: Some were not acknowledged in time; any of them may have arrived.
            EventTooLarge: One is larger than its topic takes; none was sent.
            LookupError: No topic carries the type of one; none was sent.
        """
        await self.publish_records(
            [self._checked(to_record(event, self._registry)) for event in events]
        )

    async def publish_records(self, records: Sequence[Record]) -> None:
        """Write records as they are, in order within each partition.

        A batch is sent only after the one before it of the same partition was acknowledged, so a
        failed one is never overtaken.

        Raises:
            BusUnavailable: Some were not acknowledged in time; any of them may have arrived.
        """
        deadline = time.monotonic() + self._delivery_seconds
        producer = await self._connected(deadline)
        partitions: defaultdict[TopicPartition, list[Record]] = defaultdict(list)
        counts: dict[str, list[int]] = {}
        for record in records:
            numbers = counts.get(record.topic)
            if numbers is None:
                numbers = counts[record.topic] = sorted(
                    await self._in_time(producer.partitions_for(record.topic), deadline)
                )
            number = self._partitioner(record.key, numbers, numbers)
            partitions[TopicPartition(record.topic, number)].append(record)
        if len(partitions) == 1:
            for partition, mine in partitions.items():
                await self._write(producer, partition, mine, deadline)
            return
        # A group would cancel the others when one fails; here each must run to its end.
        results = await asyncio.gather(
            *(self._write(producer, one, mine, deadline) for one, mine in partitions.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def send_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: Headers = ()
    ) -> asyncio.Future[RecordMetadata]:
        """Queue one record at high rate; the future resolves when it is acknowledged.

        Waits while the partition's batches are full. Order within a key is kept unless a future
        fails.

        Raises:
            BusUnavailable: The queue stayed full, or there was no broker, for `delivery_seconds`.
        """
        began = time.monotonic()
        deadline = began + self._delivery_seconds
        producer = await self._connected(deadline)
        try:
            future: asyncio.Future[RecordMetadata] = await self._in_time(
                producer.send(topic, value, key, headers=list(headers)), deadline
            )
        except KafkaError as error:
            self._meter.failed(topic, 1)
            raise _translated(error) from error
        future.add_done_callback(partial(self._meter.ended, topic, began))
        return future

    def _checked(self, record: Record) -> Record:
        size = record.size()
        limit = self._registry[record.topic].max_message_bytes
        if size > limit:
            raise EventTooLarge(f"an event of {size} bytes; {record.topic} takes {limit}")
        return record

    async def _write(
        self,
        producer: AIOKafkaProducer,
        partition: TopicPartition,
        records: Sequence[Record],
        deadline: float,
    ) -> None:
        """Send one partition's records, batch after batch."""
        start = 0
        while start < len(records):
            batch = producer.create_batch()
            end = start
            while end < len(records):
                record = records[end]
                added = batch.append(
                    key=record.key,
                    value=record.value,
                    timestamp=record.timestamp_ms,
                    headers=list(record.headers),
                )
                if added is None:
                    break
                end += 1
                if end % _RECORDS_PER_TURN == 0:
                    # Others have their turn of the event loop in between.
                    await asyncio.sleep(0)
            batch.close()
            await self._until_acknowledged(
                partial(producer.send_batch, batch, partition.topic, partition=partition.partition),
                deadline,
                partition.topic,
                end - start,
            )
            start = end

    async def _send_one(self, record: Record, deadline: float) -> None:
        """Send one record, in a batch with whatever else goes to its partition now."""
        producer = await self._connected(deadline)
        await self._until_acknowledged(
            lambda: producer.send(
                record.topic, record.value, record.key, headers=list(record.headers)
            ),
            deadline,
            record.topic,
            1,
        )

    async def _until_acknowledged(
        self,
        send: Callable[[], Awaitable[asyncio.Future[RecordMetadata]]],
        deadline: float,
        topic: str,
        messages: int,
    ) -> None:
        """Call `send` until what it returns resolves; it may be called again after a failure."""
        began = time.monotonic()
        try:
            await self._attempts(send, deadline)
        except Exception:
            self._meter.failed(topic, messages)
            raise
        self._meter.acknowledged(topic, messages, began)

    async def _attempts(
        self, send: Callable[[], Awaitable[asyncio.Future[RecordMetadata]]], deadline: float
    ) -> None:
        attempts = 0
        while True:
            try:
                sent = await self._in_time(send(), deadline)
                # Waited for without cancelling it, or the client would complain of a failure nobody
                # saw.
                sent.add_done_callback(_seen)
                done, _ = await asyncio.wait([sent], timeout=max(0.0, deadline - time.monotonic()))
                if not done:
                    raise BusUnavailable("the message bus does not answer")
                sent.result()
                return
            except KafkaError as error:
                attempts += 1
                delay = _BACKOFF.delay(attempts, 0.0) or 0.0
                if not error.retriable or time.monotonic() + delay > deadline:
                    raise _translated(error) from error
                _log.warning("sending failed, trying again: %r", error)
                await asyncio.sleep(delay)

    async def _connected(self, deadline: float) -> AIOKafkaProducer:
        if self._connecting is None:
            raise RuntimeError("the producer is not started")
        if self._connecting.done():
            return self._connecting.result()
        return await self._in_time(asyncio.shield(self._connecting), deadline)

    @staticmethod
    async def _in_time(work: Awaitable[T], deadline: float) -> T:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await work
        except TimeoutError:
            raise BusUnavailable("the message bus does not answer") from None

    async def _connect(self) -> AIOKafkaProducer:
        attempts = 0
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka.bootstrap,
                client_id=self._client_id,
                acks="all",
                linger_ms=self._linger_ms,
                max_batch_size=self._batch_bytes,
                max_request_size=_LARGEST_REQUEST,
                request_timeout_ms=_REQUEST_MS,
                metadata_max_age_ms=60_000,
                retry_backoff_ms=_CLIENT_BACKOFF_MS,
                compression_type=self._compression,
                partitioner=self._partitioner,
            )
            try:
                await ensure_topics(self._kafka, self._registry)
                await producer.start()
                return producer
            except (KafkaError, OSError) as error:
                attempts += 1
                _log.warning("no message bus at %s yet: %r", self._kafka.bootstrap, error)
                await producer.stop()
                await asyncio.sleep(_BACKOFF.delay(attempts, 0.0) or 0.0)
            except BaseException:
                await producer.stop()
                raise


class _Meter:
    """Counts what one producer sends, by topic."""

    def __init__(self) -> None:
        self._topics: dict[str, tuple[Counter, Counter, Histogram]] = {}

    def acknowledged(self, topic: str, messages: int, began: float) -> None:
        """Count messages that the broker has, sent at `began` of the monotonic clock."""
        acknowledged, _, duration = self._of(topic)
        acknowledged.inc(messages)
        duration.observe(time.monotonic() - began)

    def failed(self, topic: str, messages: int) -> None:
        """Count messages that were given up."""
        self._of(topic)[1].inc(messages)

    def ended(self, topic: str, began: float, sent: asyncio.Future[RecordMetadata]) -> None:
        """Count one message when its future resolves."""
        if sent.cancelled() or sent.exception() is not None:
            self.failed(topic, 1)
        else:
            self.acknowledged(topic, 1, began)

    def _of(self, topic: str) -> tuple[Counter, Counter, Histogram]:
        found = self._topics.get(topic)
        if found is None:
            sent = counter(names.BUS_SENT)
            duration = histogram(names.BUS_SEND_DURATION).labels(topic, _SEND)
            found = self._topics[topic] = (
                sent.labels(topic, "ok"),
                sent.labels(topic, "error"),
                duration,
            )
        return found


def _seen(sent: asyncio.Future[RecordMetadata]) -> None:
    """Take note of a failure, also of one that comes after its caller has given up."""
    if not sent.cancelled():
        sent.exception()


def _translated(error: KafkaError) -> Exception:
    if isinstance(error, MessageSizeTooLargeError):
        return EventTooLarge("the event is larger than the message bus takes")
    return BusUnavailable(f"the message bus refused: {type(error).__name__}")


async def _close(producer: AIOKafkaProducer) -> None:
    stopping = asyncio.create_task(producer.stop())
    done, _ = await asyncio.wait([stopping], timeout=_DRAIN_SECONDS)
    if done:
        stopping.result()
        return
    _log.warning("the message bus is away: records that were not acknowledged are dropped")
    stopping.cancel()
    await asyncio.wait([stopping])
    await producer.client.close()
