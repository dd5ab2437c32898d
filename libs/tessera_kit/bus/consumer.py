"""The consumer runner: one handler per event type, each event handled once, nothing lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from google.protobuf.message import Message

from tessera_kit.bus.dead_letters import DeadLetters
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.handling import EventHandling, EventUnitOfWork, Handler, Stopping
from tessera_kit.bus.membership import (
    OffsetCommitter,
    Partitions,
    consumed,
    join,
    leave,
    new_consumer,
    rejoining,
)
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import REGISTRY, TopicRegistry
from tessera_kit.config import KafkaConfig
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["ConsumerRunner"]

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
_POLL_MS = 60_000
_WATCH_MS = 1_000
# No such partition. Asking for it shows the client's errors, and keeps the membership while every
# worker is busy with a slow record or there is none.
_NOTHING = TopicPartition("", -1)


class ConsumerRunner:
    """Reads the topics of its handlers' message types, as a member of a consumer group.

    Partitions are worked on side by side, each in order. For each event, its effect and a note of
    its id are stored in one transaction, then the offset is committed: after a crash it is read
    again and passed over. A failure that may pass is tried again with backoff; other failures, and
    those that outlast the budget, send the record to the topic's dead-letter topic. When partitions
    move to another member, what is in work is finished and committed first.

        runner = ConsumerRunner(kafka, group="catalog", handlers={LineageObserved: on_lineage},
                                unit_of_work=lambda: UnitOfWork(database), dead_letters=producer)
        await runner.run()

    Args:
        kafka: Brokers.
        group: Consumer group; one per service and purpose.
        handlers: What to call for each message type.
        unit_of_work: Makes the transaction of an effect, None where the effect is idempotent by
            itself.
        dead_letters: Where dead letters are written.
        retry: How failures that may pass are tried again.
        registry: Topics and their message types.
        instance: Name of this member that survives its restart; see `membership.join`.
        max_records: Most records taken from a partition at a time.
        max_partition_bytes: Most bytes fetched ahead per partition; bounds memory.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        *,
        group: str,
        handlers: Mapping[type[Message], Handler],
        unit_of_work: Callable[[], EventUnitOfWork] | None,
        dead_letters: Publisher,
        retry: RetryPolicy | None = None,
        registry: TopicRegistry = REGISTRY,
        instance: str | None = None,
        max_records: int = 500,
        max_partition_bytes: int = 1 << 20,
    ) -> None:
        self._kafka = kafka
        self._group = group
        self._topics = sorted({registry.topic_for(kind).name for kind in handlers})
        self._handling = EventHandling(
            group=group,
            handlers=handlers,
            unit_of_work=unit_of_work,
            dead_letters=DeadLetters(dead_letters),
            retry=retry or RetryPolicy(),
            registry=registry,
        )
        self._registry = registry
        self._instance = instance
        self._max_records = max_records
        self._max_partition_bytes = max_partition_bytes

    async def run(self) -> None:
        """Consume until cancelled; outages of the broker are waited out."""
        await rejoining(self._group, lambda: _Session(self).run())


class _Session:
    """One membership of the runner's group, until it fails or is cancelled."""

    def __init__(self, runner: ConsumerRunner) -> None:
        self._runner = runner
        self._group = runner._group
        self._consumer = new_consumer(
            runner._kafka,
            group=runner._group,
            instance=runner._instance,
            max_partition_bytes=runner._max_partition_bytes,
        )
        self._committer = OffsetCommitter(self._consumer, runner._group)
        self._workers: dict[TopicPartition, _Worker] = {}

    async def run(self) -> None:
        runner = self._runner
        committing = asyncio.create_task(self._committer.run(), name=f"{self._group}-commit")
        try:
            await join(self._consumer, runner._kafka, runner._topics, runner._registry, self)
            while True:
                await self._consumer.getmany(_NOTHING, timeout_ms=_WATCH_MS)
                for task in (committing, *(worker.task for worker in self._workers.values())):
                    if task.done():
                        task.result()
        finally:
            await self.lost(list(self._workers))
            committing.cancel()
            await asyncio.wait([committing])
            await leave(self._consumer)

    def gained(self, partitions: Partitions) -> None:
        _log.info("%s: works on %s", self._group, _listed(partitions))
        for one in partitions:
            self._workers[one] = _Worker(self._runner, self._consumer, self._committer, one)

    async def lost(self, partitions: Partitions) -> None:
        if not partitions:
            return
        workers = [self._workers.pop(one) for one in partitions if one in self._workers]
        for worker in workers:
            worker.stop()
        tasks = [worker.task for worker in workers]
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
            for task in slow:
                # Its transaction rolls back; the partition's next owner does it again.
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._committer.finish(partitions)
        _log.info("%s: let go of %s", self._group, _listed(partitions))


class _Worker:
    """Works through one partition, record after record."""

    def __init__(
        self,
        runner: ConsumerRunner,
        consumer: AIOKafkaConsumer,
        committer: OffsetCommitter,
        partition: TopicPartition,
    ) -> None:
        self._runner = runner
        self._consumer = consumer
        self._committer = committer
        self._partition = partition
        self._stop = asyncio.Event()
        self._polling = False
        self.task = asyncio.create_task(
            self._run(), name=f"{runner._group}-{partition.topic}-{partition.partition}"
        )

    def stop(self) -> None:
        """Ask it to end after what it has begun."""
        self._stop.set()
        if self._polling:
            self.task.cancel()

    async def _run(self) -> None:
        counted = counter(names.BUS_CONSUMED).labels(self._partition.topic, self._runner._group)
        while not self._stop.is_set():
            self._polling = True
            try:
                found = await self._consumer.getmany(
                    self._partition, timeout_ms=_POLL_MS, max_records=self._runner._max_records
                )
            except asyncio.CancelledError:
                if self._stop.is_set():
                    return
                raise
            finally:
                self._polling = False
            records = consumed(found.get(self._partition, ()))
            counted.inc(len(records))
            try:
                await self._runner._handling.handle(records, self._stop, self._handled)
            except Stopping:
                return

    def _handled(self, record: ConsumedRecord) -> None:
        self._committer.done(self._partition, record.offset + 1)


def _listed(partitions: Partitions) -> str:
    return ", ".join(sorted(f"{one.topic}[{one.partition}]" for one in partitions)) or "nothing"
