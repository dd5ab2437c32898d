"""Batches: every row is acknowledged once it is written, whatever fails between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.errors import InvalidArgument, Unavailable
from tessera_kit.store.batch_writer import BatchWriter, WriterStopped
from tests.helpers import eventually

QUICK = RetryPolicy(initial_seconds=0.001, maximum_seconds=0.01, budget_seconds=None)


class Sink:
    """A table that refuses odd rows, and may be away."""

    def __init__(self) -> None:
        self.inserts: list[list[Sequence[Any]]] = []
        self.attempts = 0
        self.lost_answers = 0
        self.failures = 0
        self.open = asyncio.Event()
        self.open.set()

    @property
    def rows(self) -> list[Any]:
        return [row[0] for insert in self.inserts for row in insert]

    async def insert(
        self,
        table: str,
        rows: Sequence[Sequence[Any]],
        column_names: Sequence[str],
        database: str | None = None,
    ) -> None:
        self.attempts += 1
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        if any(row[0] == "bad" for row in rows):
            raise InvalidArgument("a bad row")
        self.inserts.append(list(rows))
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unavailable("the answer was lost")


@pytest.fixture
def sink() -> Sink:
    return Sink()


def writer(sink: Sink, **settings: Any) -> BatchWriter:
    return BatchWriter(sink, "t", ["a"], retry=QUICK, **{"max_seconds": 0.02, **settings})


async def test_rows_given_together_share_an_insert(sink: Sink) -> None:
    async with writer(sink) as target:
        await asyncio.gather(*(target.write([[n]]) for n in range(100)))
    assert sink.rows == list(range(100))
    assert len(sink.inserts) == 1


async def test_a_full_batch_does_not_wait_for_its_time(sink: Sink) -> None:
    async with writer(sink, max_rows=10, max_seconds=60) as target:
        await asyncio.wait_for(asyncio.gather(*(target.write([[n]]) for n in range(30))), timeout=5)
    assert [len(insert) for insert in sink.inserts] == [10, 10, 10]


async def test_a_row_alone_is_written_after_its_time(sink: Sink) -> None:
    async with writer(sink) as target:
        await asyncio.wait_for(target.write([[1]]), timeout=5)
        await asyncio.wait_for(target.write([[2]]), timeout=5)
    assert sink.rows == [1, 2]


async def test_a_batch_whose_answer_was_lost_comes_again_whole(sink: Sink) -> None:
    sink.lost_answers = 3
    async with writer(sink) as target:
        await asyncio.gather(*(target.write([[n]]) for n in range(10)))
    assert sink.rows == [*range(10)] * 4


async def test_an_outage_is_waited_out(sink: Sink) -> None:
    sink.failures = 20
    async with writer(sink) as target:
        await target.write([[1], [2]])
    assert sink.rows == [1, 2]


async def test_only_the_rows_at_fault_fail(sink: Sink) -> None:
    async with writer(sink) as target:
        values: list[Any] = [*range(37), "bad", *range(37, 90), "bad", 90]
        written = [await target.put([[value]]) for value in values]
        results = await asyncio.gather(*written, return_exceptions=True)
    assert [value for value, result in zip(values, results, strict=True) if result] == ["bad"] * 2
    assert all(isinstance(result, InvalidArgument) for result in results if result)
    assert sink.rows == list(range(91))


async def test_rows_of_one_call_are_written_together_or_not_at_all(sink: Sink) -> None:
    async with writer(sink) as target:
        good = await target.put([[1], [2]])
        bad = await target.put([[3], ["bad"]])
        await good
        with pytest.raises(InvalidArgument):
            await bad
    assert sink.rows == [1, 2]


async def test_a_full_writer_makes_its_callers_wait(sink: Sink) -> None:
    sink.open.clear()
    async with writer(sink, max_rows=5, max_pending=10) as target:
        for n in range(10):
            await target.put([[n]])
        late = asyncio.create_task(target.put([[10]]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(late), 0.05)
        sink.open.set()
        await (await late)
    assert sink.rows == list(range(11))


async def test_stopping_writes_what_waits(sink: Sink) -> None:
    async with writer(sink, max_seconds=60) as target:
        written = [await target.put([[n]]) for n in range(10)]
    await asyncio.gather(*written)
    assert sink.rows == list(range(10))


async def test_flush_writes_what_waits(sink: Sink) -> None:
    async with writer(sink, max_seconds=60) as target:
        await target.put([[1]])
        await target.flush()
        assert sink.rows == [1]


async def test_flush_waits_for_what_is_under_way(sink: Sink) -> None:
    sink.open.clear()
    async with writer(sink, max_rows=1) as target:
        await target.put([[1]])
        await eventually(lambda: sink.attempts == 1)
        flushing = asyncio.ensure_future(target.flush())
        done, _ = await asyncio.wait([flushing], timeout=0.05)
        assert not done
        sink.open.set()
        await flushing
        assert sink.rows == [1]


async def test_stopping_in_an_outage_fails_what_waits(sink: Sink) -> None:
    sink.open.clear()
    target = writer(sink, max_rows=1, max_pending=2)
    await target.start()
    written = [await target.put([[n]]) for n in range(2)]
    late = asyncio.create_task(target.put([[2]]))
    await target.stop(timeout=0.05)
    for future in written:
        with pytest.raises(WriterStopped):
            await future
    with pytest.raises(WriterStopped):
        await late


async def test_no_rows_are_written_at_once(sink: Sink) -> None:
    async with writer(sink) as target:
        await target.write([])
    assert sink.attempts == 0
