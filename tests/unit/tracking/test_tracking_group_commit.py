"""Group commit: what waits shares a transaction, and one bad item harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.tracking.errors import RunNotFound
from services.tracking.handlers.group_commit import GroupCommit
from tessera_kit.errors import TesseraError


class Applied:
    """Notes groups; the first waits until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[TesseraError | None]:
        self.groups.append(list(items))
        await self.go.wait()
        if 13 in items:
            raise ValueError("unlucky")
        return [RunNotFound(str(item)) if item < 0 else None for item in items]


async def settled(futures: Sequence[asyncio.Future[None]]) -> list[BaseException | None]:
    return await asyncio.gather(*futures, return_exceptions=True)


@pytest.fixture
def applied() -> Applied:
    return Applied()


def commits(applied: Applied, limit: int = 100) -> GroupCommit[int]:
    return GroupCommit(applied, weight=abs, limit=limit)


async def test_what_waits_shares_the_next_group_in_order(applied: Applied) -> None:
    group = commits(applied)
    first = group.submit(1)
    await asyncio.sleep(0)
    rest = [group.submit(item) for item in (2, 3, -4, 5)]
    applied.go.set()
    assert await settled([first]) == [None]
    [two, three, four, five] = await settled(rest)
    assert (two, three, five) == (None, None, None)
    assert isinstance(four, RunNotFound)
    assert applied.groups == [[1], [2, 3, -4, 5]]


async def test_groups_are_bounded_but_an_item_is_never_refused(applied: Applied) -> None:
    applied.go.set()
    group = commits(applied, limit=10)
    assert await settled([group.submit(item) for item in (6, 5, 4, 99, 1)]) == [None] * 5
    assert applied.groups == [[6], [5, 4], [99], [1]]


async def test_a_group_that_fails_is_applied_one_by_one(applied: Applied) -> None:
    applied.go.set()
    group = commits(applied)
    [one, bad, minus, two] = await settled([group.submit(item) for item in (1, 13, -1, 2)])
    assert (one, two) == (None, None)
    assert isinstance(bad, ValueError)
    assert isinstance(minus, RunNotFound)


async def test_a_caller_that_goes_away_stops_nobody(applied: Applied) -> None:
    group = commits(applied)
    leaving = asyncio.create_task(asyncio.wait_for(group.submit(1), 60))
    staying = group.submit(2)
    await asyncio.sleep(0)
    leaving.cancel()
    applied.go.set()
    assert await settled([staying]) == [None]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await group.close()
    assert [item for one in applied.groups for item in one] == [1, 2]


async def test_close_waits_for_what_was_accepted(applied: Applied) -> None:
    group = commits(applied)
    done = group.submit(1)
    closing = asyncio.create_task(group.close())
    await asyncio.sleep(0)
    assert not closing.done()
    applied.go.set()
    await closing
    assert done.done()
