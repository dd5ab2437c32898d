"""A consumer's membership of its group: joining it, leaving it, committing behind the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.bus.topics import TopicRegistry, ensure_topics
from tessera_kit.config import KafkaConfig

__all__ = [
    "Member",
    "OffsetCommitter",
    "Partitions",
    "consumed",
    "join",
    "leave",
    "new_consumer",
    "rejoining",
]

_log = logging.getLogger(__name__)

_BACKOFF = RetryPolicy(initial_seconds=0.1, maximum_seconds=5.0, budget_seconds=None)
_COMMIT_SECONDS = 5.0
_LEAVE_SECONDS = 5.0

Partitions = Collection[TopicPartition]


def consumed(records: Iterable[ConsumerRecord]) -> list[ConsumedRecord]:
    """The client's records as ours."""
    return [
        ConsumedRecord(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            record.headers,
        )
        for record in records
    ]


class Member(Protocol):
    """A consumer as the group sees it."""

    def gained(self, partitions: Partitions) -> None:
        """These partitions are now this member's."""

    async def lost(self, partitions: Partitions) -> None:
        """Stop working on these partitions; the group waits for it to return."""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    def __init__(self, member: Member) -> None:
        self._member = member

    async def on_partitions_assigned(self, assigned: Partitions) -> None:
        self._member.gained(assigned)

    async def on_partitions_revoked(self, revoked: Partitions) -> None:
        if revoked:
            await self._member.lost(revoked)


def new_consumer(
    kafka: KafkaConfig, *, group: str, instance: str | None, max_partition_bytes: int
) -> AIOKafkaConsumer:
    """A client that begins at the earliest record of a new group and commits when told to.

    Args:
        kafka: Brokers.
        group: Consumer group.
        instance: Name of this member that survives its restart, so that its partitions wait for it
            instead of moving; None when members are interchangeable.
        max_partition_bytes: Most bytes fetched ahead per partition.
    """
    return AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        client_id=instance or group,
        group_id=group,
        group_instance_id=instance,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=max_partition_bytes,
        fetch_max_wait_ms=int(kafka.fetch_wait_seconds * 1000),
        session_timeout_ms=int(kafka.session_seconds * 1000),
        heartbeat_interval_ms=int(kafka.session_seconds * 1000 / 3),
        rebalance_timeout_ms=30_000,
        max_poll_interval_ms=300_000,
        request_timeout_ms=15_000,
        metadata_max_age_ms=60_000,
        # How often the client tries again while the broker is away; it logs each time.
        retry_backoff_ms=500,
    )


async def join(
    consumer: AIOKafkaConsumer,
    kafka: KafkaConfig,
    topics: Sequence[str],
    registry: TopicRegistry,
    member: Member,
) -> None:
    """Connect and ask for partitions of topics, which are made when missing.

    Raises:
        KafkaError: The broker is away or refuses.
    """
    await ensure_topics(kafka, registry)
    await consumer.start()
    consumer.subscribe(list(topics), listener=_Listener(member))


async def leave(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and close the client, within a few seconds even when the broker is away."""
    coordinator = consumer._coordinator
    if coordinator is not None and coordinator.generation == 0:
        # To the client 0 means "never joined", and it would not tell the group that it leaves; but
        # Tansu's first generation is 0. Untold, the next member waits for the session to expire.
        coordinator.generation = 1
    stopping = asyncio.create_task(consumer.stop())
    _, pending = await asyncio.wait([stopping], timeout=_LEAVE_SECONDS)
    for task in pending:
        task.cancel()
        await asyncio.wait([task])
    if not pending and (error := stopping.exception()) is not None:
        _log.warning("closing a consumer failed: %r", error)


async def rejoining(group: str, session: Callable[[], Awaitable[None]]) -> None:
    """Run `session` again and again: a failure of the broker ends one, and another is begun."""
    failures = 0
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await session()
        except (KafkaError, OSError) as error:
            failures = failures + 1 if loop.time() - began < 60 else 1
            delay = _BACKOFF.delay(failures, 0.0) or 0.0
            _log.warning("%s: joining again in %.1f s: %r", group, delay, error)
            await asyncio.sleep(delay)


class OffsetCommitter:
    """Commits what is done with, behind the work: the newest offsets, at most once per interval.

    Args:
        consumer: The member whose offsets they are.
        group: For the log.
        interval_seconds: Least time between two commits. What was done in it is done again after a
            crash.
        before: Called before each commit, for what must be done once the work is and may be done
            for several pieces of it together. When it fails nothing is committed.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        group: str,
        interval_seconds: float = 0.2,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._consumer = consumer
        self._group = group
        self._interval_seconds = interval_seconds
        self._before = before
        self._pending: dict[TopicPartition, int] = {}
        self._wake = asyncio.Event()

    def done(self, partition: TopicPartition, next_offset: int) -> None:
        """Everything before `next_offset` has its effect."""
        self._pending[partition] = next_offset
        self._wake.set()

    async def run(self) -> None:
        """Commit for ever."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._commit(dict(self._pending))
                failures = 0
            except Exception as error:
                if not is_retryable(error) and not isinstance(error, KafkaError):
                    raise
                failures += 1
                _log.warning("%s: committing offsets failed: %r", self._group, error)
                self._wake.set()
                await asyncio.sleep(_BACKOFF.delay(failures, 0.0) or 0.0)
            await asyncio.sleep(self._interval_seconds)

    async def finish(self, partitions: Partitions) -> None:
        """Commit what is known of partitions that are about to be lost, and forget them."""
        last = {one: self._pending[one] for one in partitions if one in self._pending}
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                await self._commit(last)
        except Exception as error:
            _log.warning("%s: the last commit failed, some is done again: %r", self._group, error)
        for partition in last:
            self._pending.pop(partition, None)

    async def _commit(self, offsets: dict[TopicPartition, int]) -> None:
        if not offsets:
            return
        if self._before is not None:
            await self._before()
        try:
            await self._consumer.commit(
                {one: OffsetAndMetadata(offset, "") for one, offset in offsets.items()}
            )
        except (CommitFailedError, IllegalStateError) as error:
            # The partitions went to another member meanwhile; it does this work again.
            _log.info("%s: offsets are not ours to commit any more: %r", self._group, error)
        for partition, offset in offsets.items():
            if self._pending.get(partition) == offset:
                del self._pending[partition]
