"""The same batches sent twice, as a client does that did not hear the answer to the first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final

from tests.benchmarks.rest import Connection

__all__ = ["BATCHES", "Again", "sent_twice"]

BATCHES: Final = 40
"""How many batches each connection sends."""

_API: Final = "/api/2.0/mlflow"
_NOW: Final = 1_700_000_000_000
_METRICS: Final = 10

Again = tuple[float, float]
"""Seconds of the first time, and of the second."""


async def sent_twice(
    callers: Sequence[Connection], settle: Callable[[str], Awaitable[object]], batch: int
) -> Again:
    """Log batches to one run, and log them again.

    Args:
        callers: Connections that send at the same time, each its own metrics.
        settle: Waits until nothing of a run is under way to where its points are kept, so that the
            second time does not pay for the first.
        batch: Points of one batch, a multiple of the number of metrics.

    Raises:
        AssertionError: The second time changed what is read.
    """
    made = await callers[0].call(f"{_API}/runs/create", experiment_id="0")
    run_id = str(made["run"]["info"]["run_id"])
    bodies = [
        [_body(run_id, place, number, batch) for number in range(BATCHES)]
        for place in range(len(callers))
    ]
    first = await _sent(callers, bodies)
    await settle(run_id)
    before = await _read(callers[0], run_id)
    second = await _sent(callers, bodies)
    await settle(run_id)
    after = await _read(callers[0], run_id)
    assert len(before[1]) == BATCHES * batch // _METRICS
    assert after == before
    return first, second


def _body(run_id: str, place: int, number: int, batch: int) -> bytes:
    first = number * batch // _METRICS
    metrics = [
        {
            "key": f"m{place}.{one % _METRICS}",
            "value": 0.1 * one + number,
            "timestamp": _NOW + first + one // _METRICS,
            "step": first + one // _METRICS,
        }
        for one in range(batch)
    ]
    return json.dumps({"run_id": run_id, "metrics": metrics}).encode()


async def _sent(callers: Sequence[Connection], bodies: Sequence[Sequence[bytes]]) -> float:
    async def send(caller: Connection, own: Sequence[bytes]) -> None:
        for body in own:
            await caller.post(f"{_API}/runs/log-batch", body)

    began = perf_counter()
    await asyncio.gather(*(send(*one) for one in zip(callers, bodies, strict=True)))
    return perf_counter() - began


async def _read(caller: Connection, run_id: str) -> tuple[Any, Any]:
    """Return the latest metrics of the run, and the history of one."""
    run = json.loads(await caller.get(f"{_API}/runs/get?run_id={run_id}"))
    path = f"{_API}/metrics/get-history?run_id={run_id}&metric_key=m0.0"
    history = json.loads(await caller.get(path))
    return run["run"]["data"]["metrics"], history["metrics"]
