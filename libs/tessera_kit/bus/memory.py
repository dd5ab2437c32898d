"""The bus inside one process: the same rules without a broker, for tests and for embedding."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from google.protobuf.message import Message

from tessera_kit.bus.dead_letters import DeadLetters
from tessera_kit.bus.envelope import ConsumedRecord, Record, from_record, to_record
from tessera_kit.bus.event import Event
from tessera_kit.bus.handling import EventHandling, EventUnitOfWork, Handler
from tessera_kit.bus.producer import EventTooLarge
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import REGISTRY, TopicRegistry, dead_letter_topic

__all__ = ["InMemoryBus", "InMemoryConsumer"]


class InMemoryBus:
    """A twin of `EventProducer` whose topics are lists; each has one partition.

    Args:
        registry: Topics and their message types.
    """

    def __init__(self, registry: TopicRegistry = REGISTRY) -> None:
        self._registry = registry
        self._logs: defaultdict[str, list[ConsumedRecord]] = defaultdict(list)
        self._offsets: dict[tuple[str, str], int] = {}
        self._grown = asyncio.Event()

    async def publish(self, event: Event) -> None:
        """Tell one event.

        Raises:
            EventTooLarge: It is larger than its topic takes.
            LookupError: No topic carries its type.
        """
        await self.publish_many([event])

    async def publish_many(self, events: Iterable[Event]) -> None:
        """Tell events, all or none.

        Raises:
            EventTooLarge: One is larger than its topic takes.
            LookupError: No topic carries the type of one.
        """
        records = [to_record(event, self._registry) for event in events]
        for record in records:
            limit = self._registry[record.topic].max_message_bytes
            if record.size() > limit:
                raise EventTooLarge(f"an event of {record.size()} bytes; the topic takes {limit}")
        await self.publish_records(records)

    async def publish_records(self, records: Sequence[Record]) -> None:
        """Write records as they are."""
        for record in records:
            log = self._logs[record.topic]
            sent = record.timestamp_ms
            log.append(
                ConsumedRecord(
                    record.topic,
                    0,
                    len(log),
                    time.time_ns() // 1_000_000 if sent is None else sent,
                    record.key,
                    record.value,
                    record.headers,
                )
            )
        self._grown.set()

    def records(self, topic: str) -> list[ConsumedRecord]:
        """What a topic holds."""
        return list(self._logs[topic])

    def events(self, topic: str) -> list[Event]:
        """What a topic holds, decoded.

        Raises:
            MalformedEvent: A record is not a valid event.
        """
        return [from_record(record, self._registry) for record in self._logs[topic]]

    def dead_letters(self, topic: str) -> list[ConsumedRecord]:
        """What could not be handled of a topic."""
        return self.records(dead_letter_topic(topic))

    def consumer(
        self,
        *,
        group: str,
        handlers: Mapping[type[Message], Handler],
        unit_of_work: Callable[[], EventUnitOfWork] | None = None,
        retry: RetryPolicy | None = None,
    ) -> InMemoryConsumer:
        """A twin of `ConsumerRunner` on this bus; see there for the arguments."""
        handling = EventHandling(
            group=group,
            handlers=handlers,
            unit_of_work=unit_of_work,
            dead_letters=DeadLetters(self),
            retry=retry or RetryPolicy(),
            registry=self._registry,
        )
        topics = sorted({self._registry.topic_for(kind).name for kind in handlers})
        return InMemoryConsumer(self, group, topics, handling)


class InMemoryConsumer:
    """The only member of a consumer group of an `InMemoryBus`."""

    def __init__(
        self, bus: InMemoryBus, group: str, topics: Sequence[str], handling: EventHandling
    ) -> None:
        self._bus = bus
        self._group = group
        self._topics = topics
        self._handling = handling

    async def run(self) -> None:
        """Consume until cancelled."""
        while True:
            self._bus._grown.clear()
            await self.drain()
            await self._bus._grown.wait()

    async def drain(self) -> int:
        """Handle everything there is, and what that leads to; returns how many records it was."""
        count = 0
        while batches := [batch for topic in self._topics if (batch := self._waiting(topic))]:
            for batch in batches:
                await self._handling.handle(batch, asyncio.Event(), self._handled)
                count += len(batch)
        return count

    def _waiting(self, topic: str) -> list[ConsumedRecord]:
        return self._bus._logs[topic][self._bus._offsets.get((self._group, topic), 0) :]

    def _handled(self, record: ConsumedRecord) -> None:
        self._bus._offsets[self._group, record.topic] = record.offset + 1
