"""Writing to runs: batches and streams of metrics."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.tracking.convert.events import inputs_observed
from services.tracking.domain.batch import Batch, News, news_of
from services.tracking.domain.lifecycle import micros_of
from services.tracking.domain.points import Points
from services.tracking.errors import InvalidValue, RunNotFound
from services.tracking.handlers.access import Access
from services.tracking.handlers.group_commit import GroupCommit
from services.tracking.ports.store import Store
from services.tracking.ports.transaction import Transaction
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["RunLog", "StreamedPoints"]

_GROUP_WEIGHT: Final = 50_000
_CALL_WEIGHT: Final = 20
_IN_FLIGHT_POINTS: Final = 100_000
_IN_FLIGHT_MESSAGES: Final = 256


@dataclass(frozen=True, slots=True)
class StreamedPoints:
    """One message of a stream."""

    sequence: int
    """Counts the stream's messages from 1."""
    batch: Batch
    """Its points."""


class RunLog:
    """Writes what runs log.

    Concurrent writes share transactions; each batch is still stored whole or not at all, and is
    durable when `log` returns.

    Args:
        store: Where it goes.
        access: Who may write.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._commits = GroupCommit(
            self._apply,
            weight=lambda batch: _CALL_WEIGHT + len(batch.points),
            limit=_GROUP_WEIGHT,
        )
        self._logged = counter(names.TRACKING_METRICS_LOGGED)

    async def log(self, principal: Principal, batch: Batch) -> None:
        """Store a batch; one that was stored before changes nothing.

        Raises:
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not write it.
            RunNotActive: It was deleted.
            ParamChanged: A parameter has another value already.
        """
        await self._access.write_run(principal, batch.run_id)
        await self._commits.submit(batch)

    async def stream(
        self, principal: Principal, messages: AsyncIterator[StreamedPoints]
    ) -> AsyncIterator[int]:
        """Store a stream's messages; yield up to which of them all are durable.

        A bounded number of messages and points is under way at a time; then the sender waits. A
        message that fails ends the stream with its error, after what came before it was
        acknowledged.

        Raises:
            InvalidValue: A sequence does not follow on the one before.
            RunNotFound, PermissionDenied, RunNotActive: A message cannot be stored.
        """
        under_way = _UnderWay()
        reader = asyncio.create_task(self._read(principal, messages, under_way))
        try:
            while (first := await under_way.first()) is not None:
                await first
                yield under_way.take_durable()
            if under_way.error is not None:
                raise under_way.error
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def take(self, batches: Sequence[Batch]) -> None:
        """Store batches that came over the bus, which decides who may send them.

        Raises:
            RunNotFound, RunNotActive: The first that was refused; the others are stored.
        """
        outcomes = await asyncio.gather(
            *(self._commits.submit(batch) for batch in batches), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def close(self) -> None:
        """Wait until all that was accepted is stored."""
        await self._commits.close()

    async def _read(
        self,
        principal: Principal,
        messages: AsyncIterator[StreamedPoints],
        under_way: _UnderWay,
    ) -> None:
        expected = 1
        try:
            async for message in messages:
                if message.sequence != expected:
                    raise InvalidValue(
                        f"expected sequence {expected}, got {message.sequence}", "sequence"
                    )
                expected += 1
                await self._access.write_run(principal, message.batch.run_id)
                await under_way.room_for(len(message.batch.points))
                under_way.add(message, self._commits.submit(message.batch))
        except Exception as error:
            under_way.end(error)
        else:
            under_way.end(None)

    async def _apply(self, batches: Sequence[Batch]) -> list[TesseraError | None]:
        outcomes = await self._store.transact(lambda work: self._stored(work, batches))
        done = zip(batches, outcomes, strict=True)
        self._logged.inc(sum(len(batch.points) for batch, outcome in done if outcome is None))
        return outcomes

    def _stored(self, work: Transaction, batches: Sequence[Batch]) -> list[TesseraError | None]:
        """Store the batches that can be; return each one's outcome."""
        stages = work.lock({batch.run_id for batch in batches})
        known = work.known([batch for batch in batches if batch.run_id in stages])
        accepted: list[Batch] = []
        outcomes: list[TesseraError | None] = []
        news: dict[str, list[News]] = {}
        for batch in batches:
            try:
                if batch.run_id not in stages:
                    raise RunNotFound(batch.run_id)
                new = news_of(batch, stages[batch.run_id], known[batch.run_id])
            except TesseraError as error:
                outcomes.append(error)
                continue
            outcomes.append(None)
            accepted.append(batch)
            if new.changes_run:
                news.setdefault(batch.run_id, []).append(new)
            self._tell_inputs(work, batch, new)
        points = _points_of([batch for batch in accepted if batch.points])
        if points:
            work.add_points(points)
        if news:
            work.log(news, {run_id: new_etag() for run_id in news})
        return outcomes

    def _tell_inputs(self, work: Transaction, batch: Batch, new: News) -> None:
        if not new.inputs:
            return
        now = micros_of(self._clock.now())
        observed = inputs_observed(batch.run_id, new.inputs, principal=batch.principal, now=now)
        if observed is not None:
            work.publish(observed)


class _UnderWay:
    """A stream's messages that wait for their commit, in order."""

    def __init__(self) -> None:
        self._entries: deque[tuple[StreamedPoints, asyncio.Future[None]]] = deque()
        self._points = 0
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self._ended = False
        self.error: Exception | None = None
        """Why the stream ended early."""

    async def room_for(self, points: int) -> None:
        """Wait until a message with so many points may be under way; one always may."""
        while self._entries and (
            len(self._entries) >= _IN_FLIGHT_MESSAGES or self._points + points > _IN_FLIGHT_POINTS
        ):
            self._left.clear()
            await self._left.wait()

    def add(self, message: StreamedPoints, done: asyncio.Future[None]) -> None:
        """Add a message that was handed over to be stored."""
        self._entries.append((message, done))
        self._points += len(message.batch.points)
        self._arrived.set()

    def end(self, error: Exception | None) -> None:
        """Tell that no message follows."""
        self.error = error
        self._ended = True
        self._arrived.set()

    async def first(self) -> asyncio.Future[None] | None:
        """Wait for the oldest message; None when the stream has ended and none is left."""
        while not self._entries:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._entries[0][1]

    def take_durable(self) -> int:
        """Take the messages off that are durable, up to the first that is not; return the last."""
        sequence = 0
        while self._entries:
            message, done = self._entries[0]
            if not done.done() or done.exception() is not None:
                break
            sequence = message.sequence
            self._entries.popleft()
            self._points -= len(message.batch.points)
            self._left.set()
        return sequence


def _points_of(batches: Sequence[Batch]) -> dict[str, Points]:
    blocks: dict[str, list[Points]] = {}
    for batch in batches:
        points = batch.points
        block = points if isinstance(points, Points) else Points.of(points)
        blocks.setdefault(batch.run_id, []).append(block)
    return {run_id: Points.joined(some) for run_id, some in blocks.items()}
