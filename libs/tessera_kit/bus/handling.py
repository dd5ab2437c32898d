"""What a consumer does with a record: decode it, handle it once, retry, set it aside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from google.protobuf.message import Message
from opentelemetry import trace

from tessera_kit.bus.dead_letters import DeadLetters, reason_of
from tessera_kit.bus.envelope import ConsumedRecord, from_record
from tessera_kit.bus.event import Event
from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.bus.topics import REGISTRY, TopicRegistry
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter, histogram
from tessera_kit.telemetry.propagation import parse_traceparent

__all__ = ["EventHandling", "EventUnitOfWork", "Handler", "Stopping"]

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("tessera_kit.bus")

Handler = Callable[[Event, Any], Awaitable[None]]
"""`async def on_created(event, uow)`: writes through `uow.session` and does not commit.

`uow` is the consumer's unit of work, None where it has none. After a failure it is called again for
the same event, with a fresh unit of work. It must not wait for the network while it holds one."""


class EventUnitOfWork(Protocol):
    """The transaction that a consumer's effect and its note of the event share."""

    async def __aenter__(self) -> Self:
        """Begin."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Roll back what is not committed."""

    async def claim_events(self, consumer_group: str, event_ids: Sequence[str]) -> set[str]:
        """Note that the group handles these events; returns those that it did not handle before."""

    async def commit(self) -> None:
        """Store the effect and the note."""


class Stopping(Exception):
    """The consumer stops before this record was handled; nothing of it took effect."""


class EventHandling:
    """Gives each event its effect once, in order.

    Consecutive events share a transaction, as many as fit in about `transaction_seconds`. When one
    of them fails, all are rolled back and handled one by one, so a bad one costs only itself.

    Args:
        group: Consumer group, the name under which events are noted as handled.
        handlers: What to call for each message type; other types of the topic are passed over.
        unit_of_work: Makes the transaction of an effect. None when the effect is idempotent by
            itself: then an event may be handled again after a crash or a rebalance.
        dead_letters: Where a record goes that cannot be handled.
        retry: How failures that may pass are tried again.
        registry: Topics and their message types.
        transaction_events: Most events in one transaction.
        transaction_seconds: How long a transaction should hold the database.
    """

    def __init__(
        self,
        *,
        group: str,
        handlers: Mapping[type[Message], Handler],
        unit_of_work: Callable[[], EventUnitOfWork] | None,
        dead_letters: DeadLetters,
        retry: RetryPolicy,
        registry: TopicRegistry = REGISTRY,
        transaction_events: int = 256,
        transaction_seconds: float = 0.02,
    ) -> None:
        self._group = group
        self._handlers = {kind.DESCRIPTOR.full_name: call for kind, call in handlers.items()}
        self._unit_of_work = unit_of_work
        self._dead_letters = dead_letters
        self._retry = retry
        self._registry = registry
        self._most_events = transaction_events
        self._transaction_seconds = transaction_seconds
        self._stretch_events = transaction_events if unit_of_work is None else 8
        self._meters: dict[str, _Meter] = {}

    async def handle(
        self,
        records: Sequence[ConsumedRecord],
        stop: asyncio.Event,
        handled: Callable[[ConsumedRecord], None],
    ) -> None:
        """Handle records of one partition, in order.

        Args:
            records: Consecutive records.
            stop: Set when the consumer should end soon: nothing new begins then.
            handled: Called with the last record of each stretch that is done with.

        Raises:
            Stopping: `stop` was set before all were done with.
        """
        start = 0
        while start < len(records):
            if stop.is_set():
                raise Stopping
            stretch = records[start : start + self._stretch_events]
            if self._unit_of_work is None:
                stretch = stretch[: await self._in_turn(stretch, stop, handled)]
            elif len(stretch) > 1 and await self._together(stretch):
                handled(stretch[-1])
            else:
                for record in stretch:
                    await self._alone(record, stop)
                    handled(record)
            start += len(stretch)

    async def _in_turn(
        self,
        stretch: Sequence[ConsumedRecord],
        stop: asyncio.Event,
        handled: Callable[[ConsumedRecord], None],
    ) -> int:
        """Handle records without a transaction; returns how many are done with."""
        done = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._retry.attempt_seconds) as limit:
                for record in stretch:
                    if stop.is_set():
                        return done
                    await self._transact([record])
                    handled(record)
                    done += 1
                    limit.reschedule(loop.time() + self._retry.attempt_seconds)
        except Exception as error:
            await self._alone(stretch[done], stop, error)
            handled(stretch[done])
            done += 1
        return done

    async def _together(self, stretch: Sequence[ConsumedRecord]) -> bool:
        """Handle records in one transaction; False when it failed and none took effect."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._retry.attempt_seconds):
                await self._transact(stretch)
        except Exception as error:
            # Handling them one by one finds out whose fault it is.
            _log.debug("%s: a shared transaction failed: %s", self._group, reason_of(error))
            self._stretch_events = max(2, self._stretch_events // 2)
            return False
        took = time.monotonic() - began
        if took < self._transaction_seconds / 2 and len(stretch) == self._stretch_events:
            self._stretch_events = min(self._most_events, self._stretch_events * 2)
        elif took > self._transaction_seconds * 2:
            self._stretch_events = max(2, self._stretch_events // 2)
        return True

    async def _alone(
        self, record: ConsumedRecord, stop: asyncio.Event, error: Exception | None = None
    ) -> None:
        """Handle one record until it has its effect or is a dead letter.

        `error` is what a first attempt failed with, where there was one.
        """
        attempts = 0
        began = time.monotonic()
        while True:
            error = error or await self._attempt(record)
            if error is None:
                return
            attempts += 1
            elapsed = time.monotonic() - began
            delay = self._retry.delay(attempts, elapsed) if is_retryable(error) else None
            if delay is None:
                await self._dead_letters.put(record, self._group, error, attempts)
                return
            _log.warning(
                "%s: attempt %d at %s[%d]@%d failed, the next is in %.2f s: %s",
                *(self._group, attempts, record.topic, record.partition, record.offset, delay),
                reason_of(error),
            )
            error = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stop.wait()
                raise Stopping

    async def _attempt(self, record: ConsumedRecord) -> Exception | None:
        """Handle one record; returns what it failed with."""
        try:
            async with asyncio.timeout(self._retry.attempt_seconds):
                await self._transact([record])
        except Exception as error:
            return error
        return None

    async def _transact(self, records: Sequence[ConsumedRecord]) -> None:
        """Give records their effect, in one transaction where there are transactions."""
        events = [
            (record.topic, event)
            for record in records
            if (event := from_record(record, self._registry)).type in self._handlers
        ]
        if not events:
            return
        if self._unit_of_work is None:
            for topic, event in events:
                await self._call(topic, event, None)
            return
        async with self._unit_of_work() as unit_of_work:
            fresh = await unit_of_work.claim_events(
                self._group, list(dict.fromkeys(event.id for _, event in events))
            )
            for topic, event in events:
                if event.id in fresh:
                    fresh.discard(event.id)
                    await self._call(topic, event, unit_of_work)
                else:
                    counter(names.BUS_DUPLICATES).labels(topic, self._group).inc()
            await unit_of_work.commit()

    async def _call(self, topic: str, event: Event, unit_of_work: EventUnitOfWork | None) -> None:
        """Call an event's handler inside the trace that the event came from."""
        meter = self._meters.get(topic)
        if meter is None:
            meter = self._meters[topic] = _Meter(topic, self._group)
        meter.delay.observe(max(0.0, time.time() - event.time.timestamp()))
        began = time.perf_counter()
        try:
            with self._span(topic, event):
                await self._handlers[event.type](event, unit_of_work)
        except BaseException:
            meter.failed.observe(time.perf_counter() - began)
            raise
        meter.succeeded.observe(time.perf_counter() - began)

    def _span(self, topic: str, event: Event) -> AbstractContextManager[object]:
        """The span of one event's handling, or what carries on a trace that is not recorded."""
        cause = parse_traceparent(event.traceparent) if event.traceparent else None
        if cause is not None and not cause.trace_flags.sampled:
            return trace.use_span(trace.NonRecordingSpan(cause))
        return _tracer.start_as_current_span(
            f"process {topic}",
            # The conventions prefer a link alone; as parent too, one trace shows a request and all
            # that it caused.
            context=None
            if cause is None
            else trace.set_span_in_context(trace.NonRecordingSpan(cause)),
            kind=trace.SpanKind.CONSUMER,
            links=() if cause is None else (trace.Link(cause),),
            attributes={
                names.MESSAGING_SYSTEM: "kafka",
                names.MESSAGING_OPERATION: "process",
                names.MESSAGING_OPERATION_TYPE: "process",
                names.MESSAGING_DESTINATION: topic,
                names.MESSAGING_GROUP: self._group,
                names.MESSAGING_MESSAGE_ID: event.id,
                names.EVENT_TYPE: event.type,
            },
        )


class _Meter:
    """What is measured of one topic's handling by one group."""

    def __init__(self, topic: str, group: str) -> None:
        self.delay = histogram(names.BUS_DELIVERY_DELAY).labels(topic, group)
        self.succeeded = histogram(names.BUS_PROCESS_DURATION).labels(topic, group, "ok")
        self.failed = histogram(names.BUS_PROCESS_DURATION).labels(topic, group, "error")
