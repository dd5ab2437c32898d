from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tessera.client.portal import Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


def test_results_and_errors_come_back(portal: Portal) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def fail() -> None:
        raise LookupError("nothing there")

    assert portal.run(answer()) == 42
    with pytest.raises(LookupError, match="nothing there"):
        portal.run(fail())


def test_iterators_are_lazy_and_closed_when_the_caller_stops(portal: Portal) -> None:
    produced: list[int] = []
    closed = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(100):
                produced.append(number)
                yield number
        finally:
            closed.set()

    taken = portal.iterate(numbers())
    assert [next(taken), next(taken)] == [0, 1]
    assert len(produced) == 2
    taken.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_iterators_end(portal: Portal) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    assert list(portal.iterate(numbers())) == [1, 2]
