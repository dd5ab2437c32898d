"""Records fetched ahead of whoever works on them, so that fetching and working take turns."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer

from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.membership import consumed
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["Gathering"]

_WATCH_SECONDS = 1.0
_AT_ONCE = 50
"""Records that are taken from the client at once. Its own bounds are of compressed bytes, which may
be a hundredth of what they hold, and it unpacks no more than it is asked for."""


class Gathering:
    """What a member has fetched and nobody works on yet: one batch at most.

    The client itself fetches a partition's next records only when the last ones were taken from
    it. So they are taken at once: those that come while a batch is worked on are here when it is
    done.

    Args:
        consumer: Joined to its group.
        group: For the metrics.
        max_records: Most records that are held.
        max_bytes: Nothing more is taken when keys and values reach this, of 50 records at a time.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, group: str, *, max_records: int, max_bytes: int
    ) -> None:
        self._consumer = consumer
        self._group = group
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: list[ConsumedRecord] = []
        self._size = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Fetch until cancelled.

        Raises:
            KafkaError: The broker is away or refuses.
        """
        while True:
            if self._full.is_set():
                self._room.clear()
                await self._room.wait()
            found = await self._consumer.getmany(
                timeout_ms=int(_WATCH_SECONDS * 1000),
                max_records=min(_AT_ONCE, self._max_records - len(self._records)),
            )
            for partition, records in found.items():
                counter(names.BUS_CONSUMED).labels(partition.topic, self._group).inc(len(records))
                self._records.extend(consumed(records))
                self._size += sum(len(one.key or b"") + len(one.value or b"") for one in records)
            if self._records:
                self._some.set()
            if len(self._records) >= self._max_records or self._size >= self._max_bytes:
                self._full.set()

    async def take(self, due: float) -> list[ConsumedRecord]:
        """All that is here: when it is full, or there is something and the time is due.

        Args:
            due: In the loop's time.

        Returns:
            Nothing when nothing came for a second, or what was there was forgotten.
        """
        try:
            async with asyncio.timeout(_WATCH_SECONDS):
                await self._some.wait()
        except TimeoutError:
            return []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._full.wait()
        records = self._records
        self.forget()
        return records

    def forget(self) -> None:
        """Drop what is here: its partitions are somebody else's now."""
        self._records = []
        self._size = 0
        self._some.clear()
        self._full.clear()
        self._room.set()
