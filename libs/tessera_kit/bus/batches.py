"""The batch consumer: many records at a time for high-rate sinks, committed after their effect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from aiokafka.structs import TopicPartition
from opentelemetry import trace

from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.dead_letters import DeadLetters, reason_of
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.gathering import Gathering
from tessera_kit.bus.handling import Stopping
from tessera_kit.bus.membership import (
    OffsetCommitter,
    Partitions,
    join,
    leave,
    new_consumer,
    rejoining,
)
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.bus.topics import REGISTRY, TopicRegistry
from tessera_kit.config import KafkaConfig
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import histogram
from tessera_kit.telemetry.propagation import recorded_cause

__all__ = ["BatchConsumer", "ConsumedRecord"]

_tracer = trace.get_tracer("tessera_kit.bus")
_log = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
_COMMIT_SECONDS = 1.0
"""Each commit costs the broker as much as a batch of records; what was done since is done again
after a crash."""
_MOST_LINKS = 64

BatchHandler = Callable[[Sequence[ConsumedRecord]], Awaitable[None]]


class BatchConsumer:
    """Hands over records of its topics in batches, and commits them when the handler returned.

    A batch holds records of any of the member's partitions, each partition's in order: all that
    came while the one before was worked on. After a crash records are handed over again, in other
    batches: the handler must be idempotent per record. Records are raw; `envelope.from_record`
    decodes them.

    What `handle` raises decides: a failure that may pass (`retry.is_retryable`) repeats the same
    batch with backoff, while at most one more is fetched, so memory stays bounded. Any other
    halves the batch until the records at fault stand alone, and these become dead letters.

    Args:
        kafka: Brokers.
        group: Consumer group.
        topics: What to read.
        handle: The sink. Returns when the effect of all records is durable.
        dead_letters: Where records at fault are written. None: such a failure ends `run`.
        max_records: Most records in a batch.
        max_wait: Least seconds from the begin of one batch to that of the next, unless it is full:
            the longest that a record waits for others.
        max_bytes: A batch is full when its keys and values reach this.
        retry: How failures that may pass are tried again; for ever by default.
        registry: Topics that are made when missing.
        instance: Name of this member that survives its restart; see `membership.new_consumer`.
        max_partition_bytes: Most bytes fetched ahead per partition; bounds memory.
        before_commit: Called before offsets are committed, at most once a second: for what the
            handler leaves to be done for several batches together. Until it has returned, the
            batches are handed over again after a crash.
        continuity: Is told when partitions are gained, and beats while the member waits for
            records; the handler makes it beat while it works.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        *,
        group: str,
        topics: Sequence[str],
        handle: BatchHandler,
        dead_letters: Publisher | None = None,
        max_records: int = 5_000,
        max_wait: float = 0.2,
        max_bytes: int = 32 << 20,
        retry: RetryPolicy | None = None,
        registry: TopicRegistry = REGISTRY,
        instance: str | None = None,
        max_partition_bytes: int = 4 << 20,
        before_commit: Callable[[], Awaitable[None]] | None = None,
        continuity: Continuity | None = None,
    ) -> None:
        self.kafka = kafka
        self.group = group
        self.topics = tuple(topics)
        self.handle = handle
        self.dead_letters = None if dead_letters is None else DeadLetters(dead_letters)
        self.max_records = max_records
        self.max_wait = max_wait
        self.max_bytes = max_bytes
        self.retry = retry or RetryPolicy(budget_seconds=None)
        self.registry = registry
        self.instance = instance
        self.max_partition_bytes = max_partition_bytes
        self.before_commit = before_commit
        self.continuity = continuity

    async def run(self) -> None:
        """Consume until cancelled; outages of the broker are waited out.

        Raises:
            Exception: What `handle` raised, where it may not pass and there is no dead-letter
                topic.
        """
        await rejoining(self.group, lambda: _Session(self).run())


class _Session:
    """One membership of the group, until it fails or is cancelled."""

    def __init__(self, settings: BatchConsumer) -> None:
        self._settings = settings
        self._group = settings.group
        self._consumer = new_consumer(
            settings.kafka,
            group=settings.group,
            instance=settings.instance,
            max_partition_bytes=settings.max_partition_bytes,
        )
        self._committer = OffsetCommitter(
            self._consumer, settings.group, _COMMIT_SECONDS, settings.before_commit
        )
        self._gathering = Gathering(
            self._consumer,
            settings.group,
            max_records=settings.max_records,
            max_bytes=settings.max_bytes,
        )
        self._leaving = asyncio.Event()
        self._delivery: asyncio.Task[None] | None = None

    async def run(self) -> None:
        settings = self._settings
        committing = asyncio.create_task(self._committer.run(), name=f"{self._group}-commit")
        try:
            await join(self._consumer, settings.kafka, settings.topics, settings.registry, self)
            gathering = asyncio.create_task(self._gathering.run(), name=f"{self._group}-fetch")
            try:
                await self._work([committing, gathering])
            finally:
                gathering.cancel()
                await asyncio.wait([gathering])
        finally:
            await self._finish(self._consumer.assignment())
            committing.cancel()
            await asyncio.wait([committing])
            await leave(self._consumer)

    async def _work(self, helpers: Sequence[asyncio.Task[None]]) -> None:
        """Work on batches until one of the helpers fails."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            batch = await self._gathering.take(due)
            if self._settings.continuity is not None:
                self._settings.continuity.beat()
            for helper in helpers:
                if helper.done():
                    helper.result()
            if batch:
                due = loop.time() + self._settings.max_wait
                await self._work_on(batch)

    def gained(self, partitions: Partitions) -> None:
        if self._settings.continuity is not None:
            self._settings.continuity.end()
        _log.info("%s: works on %d partitions", self._group, len(partitions))

    async def lost(self, partitions: Partitions) -> None:
        # What is fetched and not begun is left to the next owner.
        self._gathering.forget()
        await self._finish(partitions)
        _log.info("%s: let go of %d partitions", self._group, len(partitions))

    async def _finish(self, partitions: Partitions) -> None:
        """End the delivery that is under way, and commit."""
        if self._delivery is not None:
            self._leaving.set()
            _, slow = await asyncio.wait([self._delivery], timeout=_GRACE_SECONDS)
            for task in slow:
                task.cancel()
                await asyncio.wait([task])
            self._leaving.clear()
        await self._committer.finish(partitions)

    async def _work_on(self, batch: Sequence[ConsumedRecord]) -> None:
        self._delivery = asyncio.create_task(self._deliver(batch), name=f"{self._group}-batch")
        # Not awaited directly: when partitions are lost it is this task alone that ends.
        await asyncio.wait([self._delivery])
        delivery, self._delivery = self._delivery, None
        error = None if delivery.cancelled() else delivery.exception()
        if error is not None and not isinstance(error, Stopping):
            raise error

    async def _deliver(self, batch: Sequence[ConsumedRecord]) -> None:
        """Give a batch its effect and note its offsets."""
        began = time.perf_counter()
        topic = batch[0].topic
        with _tracer.start_as_current_span(
            f"process {topic}",
            kind=trace.SpanKind.CONSUMER,
            links=_links(batch),
            attributes={
                names.MESSAGING_SYSTEM: "kafka",
                names.MESSAGING_OPERATION: "process",
                names.MESSAGING_OPERATION_TYPE: "process",
                names.MESSAGING_DESTINATION: topic,
                names.MESSAGING_GROUP: self._group,
                names.MESSAGING_BATCH_COUNT: len(batch),
            },
        ):
            await self._settle(batch)
        histogram(names.BUS_PROCESS_DURATION).labels(topic, self._group, "ok").observe(
            time.perf_counter() - began
        )
        ends = {TopicPartition(one.topic, one.partition): one.offset + 1 for one in batch}
        for partition, end in ends.items():
            self._committer.done(partition, end)

    async def _settle(self, batch: Sequence[ConsumedRecord]) -> None:
        """Hand over records until they have their effect or those at fault are dead letters."""
        error = await self._attempts(batch)
        if error is None:
            return
        if self._settings.dead_letters is None:
            raise error
        if len(batch) == 1:
            await self._settings.dead_letters.put(batch[0], self._group, error, 1)
            return
        middle = len(batch) // 2
        await self._settle(batch[:middle])
        await self._settle(batch[middle:])

    async def _attempts(self, batch: Sequence[ConsumedRecord]) -> Exception | None:
        """Hand over records until they have their effect; returns the failure that may not pass."""
        attempts = 0
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._settings.retry.attempt_seconds):
                    await self._settings.handle(batch)
                return None
            except Exception as error:
                attempts += 1
                if not is_retryable(error):
                    return error
                delay = self._settings.retry.delay(attempts, time.monotonic() - began)
                if delay is None:
                    return error
                _log.warning(
                    "%s: attempt %d at %d records failed, the next is in %.2f s: %s",
                    *(self._group, attempts, len(batch), delay, reason_of(error)),
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._leaving.wait()
                raise Stopping


def _links(batch: Sequence[ConsumedRecord]) -> list[trace.Link]:
    """Links to the recorded spans that the first records of a batch were made in."""
    links: list[trace.Link] = []
    for record in batch:
        cause = recorded_cause(record.headers)
        if cause is not None:
            links.append(trace.Link(cause))
        if len(links) >= _MOST_LINKS:
            break
    return links
