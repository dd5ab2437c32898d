"""The gate of a served entity: so many inside, so many waiting in order, the others refused."""

from __future__ import annotations

import asyncio

import pytest

from services.inference.errors import EntityBusy
from services.inference.gateway.admission import Gate


async def test_those_beyond_the_bound_wait_in_order_and_the_rest_is_refused() -> None:
    gate = Gate("m", 1, 2)
    entered = await gate.enter(1)
    order: list[str] = []

    async def pass_through(name: str) -> None:
        came = await gate.enter(5)
        order.append(name)
        gate.leave(came)

    tasks = [asyncio.create_task(pass_through(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    assert gate.waiting == 2
    with pytest.raises(EntityBusy) as caught:
        await gate.enter(1)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    gate.leave(entered)
    await asyncio.gather(*tasks)
    assert order == ["first", "second"]
    assert not gate.full


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    gate = Gate("m", 1, 5)
    entered = await gate.enter(1)
    waiting = asyncio.create_task(gate.enter(5))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    with pytest.raises(TimeoutError):
        await gate.enter(0.001)
    assert gate.waiting == 0
    gate.leave(entered)
    assert not gate.full


async def test_a_turn_that_comes_as_its_caller_goes_is_passed_on() -> None:
    gate = Gate("m", 1, 5)
    entered = await gate.enter(1)
    leaving = asyncio.create_task(gate.enter(5))
    staying = asyncio.create_task(gate.enter(5))
    await asyncio.sleep(0)
    gate.leave(entered)
    leaving.cancel()
    await asyncio.wait([leaving, staying])
    gate.leave(staying.result())
    assert not gate.full
