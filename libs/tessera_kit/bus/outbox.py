"""The outbox relay: carries events from a service's database to the bus, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tessera_kit.bus.dead_letters import reason_of
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.tables import INBOX, OUTBOX, outbox_tables
from tessera_kit.errors import TesseraError
from tessera_kit.store.sole_access import SoleAccess, sole_access
from tessera_kit.store.sql import Database, outbox_record
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter, gauge

__all__ = ["INBOX", "OUTBOX", "OutboxRelay", "outbox_tables"]

_log = logging.getLogger(__name__)

_BACKOFF = RetryPolicy(initial_seconds=0.1, maximum_seconds=5.0, budget_seconds=None)
_SWEEP_SECONDS = 3600.0


class OutboxRelay:
    """Publishes what transactions told, oldest first, and deletes what is acknowledged.

    It wakes as soon as a unit of work of this process commits an event, and looks by itself now and
    then for those of other processes. Of all relays of one database only one works at a time;
    another takes over at once when it ends, however it ends. After a crash the last events may be
    told again: consumers pass over them.

    It also forgets, every hour, which events were handled longer ago than `inbox_days`.

    Args:
        database: Whose outbox it empties.
        publisher: Where the events go.
        batch: Most events taken at a time; bounds memory.
        poll_seconds: How often it looks without being woken.
        gather_seconds: Shortest time from one batch to the next that is not full: under steady
            load one trip to the bus carries many events, and one after a pause goes at once.
        inbox_days: How long the ids of handled events are kept; longer than any topic's retention.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        batch: int = 500,
        poll_seconds: float = 1.0,
        gather_seconds: float = 0.05,
        inbox_days: float = 30.0,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._batch = batch
        self._poll_seconds = poll_seconds
        self._gather_seconds = gather_seconds
        self._inbox_seconds = inbox_days * 86_400
        self._sweep_at = 0.0

    async def run(self) -> None:
        """Relay until cancelled; outages of the database and of the bus are waited out."""
        failures = 0
        while True:
            try:
                async with sole_access(self._database, "relay", self._poll_seconds) as access:
                    while True:
                        await self._relay(access)
                        failures = 0
            except (SQLAlchemyError, OSError, TesseraError) as error:
                failures += 1
                delay = _BACKOFF.delay(failures, 0.0) or 0.0
                _log.warning("outbox: trying again in %.1f s: %s", delay, reason_of(error))
                await asyncio.sleep(delay)

    async def drain(self) -> int:
        """Publish what is in the outbox now; returns how many events. For tests and for shutdown.

        Raises:
            BusUnavailable: The bus does not answer; what is left stays in the outbox.
        """
        count = 0
        access = SoleAccess(self._database.reader.connect, self._database.engine.begin)
        while published := await self._publish(access):
            count += published
        return count

    async def _relay(self, access: SoleAccess) -> None:
        """Publish all there is, then wait for more."""
        self._database.outbox_filled.clear()
        published = self._batch
        while published == self._batch:
            began = time.monotonic()
            published = await self._publish(access)
        await self._sweep(access)
        with contextlib.suppress(TimeoutError):
            # Not `wait_for`, which in Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(self._poll_seconds):
                await self._database.outbox_filled.wait()
        if published:
            await asyncio.sleep(began + self._gather_seconds - time.monotonic())

    async def _publish(self, access: SoleAccess) -> int:
        """Publish one batch; returns how many events it had."""
        oldest = (
            sa.select(
                *(OUTBOX.c.position, OUTBOX.c.topic, OUTBOX.c.record_key),
                *(OUTBOX.c.value, OUTBOX.c.headers),
            )
            .order_by(OUTBOX.c.position)
            .limit(self._batch)
        )
        async with access.read() as connection:
            rows: Sequence[Any] = (await connection.execute(oldest)).all()
            pending: int | None = len(rows)
            if pending == self._batch:
                pending = await connection.scalar(sa.select(sa.func.count()).select_from(OUTBOX))
        gauge(names.OUTBOX_PENDING).set(pending or 0)
        if not rows:
            return 0
        await self._publisher.publish_records([outbox_record(row[1:]) for row in rows])
        async with access.write() as connection:
            await connection.execute(
                sa.delete(OUTBOX).where(OUTBOX.c.position.in_([row[0] for row in rows]))
            )
        counter(names.OUTBOX_PUBLISHED).inc(len(rows))
        return len(rows)

    async def _sweep(self, access: SoleAccess) -> None:
        """Forget the oldest handled events, now and then."""
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + _SWEEP_SECONDS
        before = int(time.time() - self._inbox_seconds)
        async with access.write() as connection:
            await connection.execute(sa.delete(INBOX).where(INBOX.c.handled_at < before))
