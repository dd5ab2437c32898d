"""Large records are brought away in pauses, though never much later."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.inference.capture.lull import Lull
from services.inference.capture.reader import SpoolReader
from services.inference.capture.spool import Spool
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import ManualClock

QUIET = 0.03
ROOM = 1 << 20


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, segment_bytes=ROOM, max_bytes=ROOM)
    spool.open()
    yield spool
    spool.close()


class World:
    """A spool that is appended to when the test says so, and who waits for a pause."""

    def __init__(self, folder: Path, spool: Spool, clock: ManualClock) -> None:
        self.clock = clock
        self.spool = spool
        self._folder = folder
        reader = SpoolReader(folder)
        self._lull = Lull(reader, clock, ROOM, quiet_seconds=QUIET, longest_seconds=1.0)
        self.append()

    def append(self, size: int = 100) -> None:
        self.spool.append(b"r" * size)
        now = self.clock.now().timestamp()
        os.utime(max(self._folder.glob("*.segment")), (now, now))

    def wait(self, age: float = 0.0) -> asyncio.Task[None]:
        return self.wait_for(self.record(age))

    def wait_for(self, *records: pb.PayloadRecord) -> asyncio.Task[None]:
        return asyncio.create_task(self._lull.wait(records))

    def record(self, age: float, seconds: float = 0.0) -> pb.PayloadRecord:
        """One of a request that came so long ago and took so many seconds."""
        record = pb.PayloadRecord(duration_us=int(seconds * 1e6))
        record.request_time.FromDatetime(self.clock.now() - timedelta(seconds=age))
        return record

    async def looks(self, waiting: asyncio.Task[None]) -> bool:
        """Let it look again; returns whether it has gone on."""
        await asyncio.wait([waiting], timeout=2 * QUIET)
        return waiting.done()


@pytest.fixture
def world(tmp_path: Path, spool: Spool, clock: ManualClock) -> World:
    return World(tmp_path, spool, clock)


async def test_nothing_waits_while_nothing_is_appended(world: World) -> None:
    world.clock.advance(QUIET * 2)
    await asyncio.wait_for(world.wait(), 1)


async def test_who_waits_goes_on_with_the_pause(world: World) -> None:
    waiting = world.wait()
    for _ in range(3):
        world.clock.advance(QUIET / 2)
        world.append()
        assert not await world.looks(waiting)
    world.clock.advance(QUIET * 2)
    await asyncio.wait_for(waiting, 1)


async def test_nobody_waits_longer_than_the_bound(world: World) -> None:
    waiting = world.wait(age=0.5)
    world.clock.advance(0.4)
    world.append()
    assert not await world.looks(waiting)
    world.clock.advance(0.2)
    world.append()
    await asyncio.wait_for(waiting, 1)


async def test_what_is_old_does_not_wait(world: World) -> None:
    await asyncio.wait_for(world.wait(age=3600), 1)


async def test_a_record_of_the_future_waits_no_longer_than_others(world: World) -> None:
    waiting = world.wait(age=-3600)
    assert not await world.looks(waiting)
    world.clock.advance(1.1)
    world.append()
    await asyncio.wait_for(waiting, 1)


async def test_records_of_a_burst_wait(world: World) -> None:
    burst = [world.record(age, 0.002) for age in (0.010, 0.006, 0.002)]
    waiting = world.wait_for(*burst)
    assert not await world.looks(waiting)
    waiting.cancel()


async def test_records_of_requests_now_and_then_do_not(world: World) -> None:
    sparse = [world.record(age, 0.002) for age in (0.090, 0.050, 0.010)]
    await asyncio.wait_for(world.wait_for(*sparse), 1)


async def test_a_spool_that_fills_is_emptied_at_once(world: World) -> None:
    waiting = world.wait()
    assert not await world.looks(waiting)
    world.append(ROOM // 2)
    await asyncio.wait_for(waiting, 1)
