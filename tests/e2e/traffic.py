"""Requests to an endpoint, many in flight, each known by what came of it. Nothing is retried."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from tessera import AsyncClient
from tessera_kit.errors import TesseraError
from tests.e2e import models
from tests.helpers import eventually

IN_FLIGHT = 32
_TIMEOUT_SECONDS = 10.0
_THINK_SECONDS = 0.05
"""Between two requests of one caller: killed processes share the cores with the callers."""
_REFUSED_SECONDS = 0.5
"""The same after a failure, as errors that say to try later ask for."""


@dataclass(slots=True)
class Traffic:
    """What callers sent and what they got."""

    answers: dict[str, str] = field(default_factory=dict)
    """The caller's own id of each answered request, by its tessera_request_id."""
    failures: list[TesseraError] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Answers that were not the model's answer to the question."""

    async def flows(self, more: int, timeout: float) -> None:
        """Waits until so many more requests were answered."""
        wanted = len(self.answers) + more

        def answered() -> bool:
            last = self.failures[-1] if self.failures else None
            assert len(self.answers) >= wanted, (
                f"{wanted - len(self.answers)} answers short; the last failure: {last!r}"
            )
            return True

        await eventually(answered, timeout=timeout)


@asynccontextmanager
async def traffic(client: AsyncClient, endpoint: str) -> AsyncIterator[Traffic]:
    """Keeps requests in flight while the body runs, then lets the last ones end."""
    found = Traffic()
    numbers = itertools.count()
    stopping = asyncio.Event()

    async def caller() -> None:
        while not stopping.is_set():
            answered = await _ask(client, endpoint, next(numbers), found)
            # A pace, not a wait for anything.
            await asyncio.sleep(_THINK_SECONDS if answered else _REFUSED_SECONDS)

    callers = [asyncio.create_task(caller()) for _ in range(IN_FLIGHT)]
    try:
        yield found
    finally:
        stopping.set()
        await asyncio.gather(*callers)


async def _ask(client: AsyncClient, endpoint: str, number: int, found: Traffic) -> bool:
    name = f"request-{number}"
    x = np.array([[number, 1.0, 0.5, 0.25]], np.float32)
    carrier = models.CARRIERS[number % len(models.CARRIERS)]
    try:
        prediction = await client.inference.predict(
            endpoint,
            models.inputs(x, [carrier], [number]),
            client_request_id=name,
            timeout=_TIMEOUT_SECONDS,
        )
    except TesseraError as error:
        found.failures.append(error)
        return False
    score = prediction.outputs["score"]
    if not np.allclose(score, models.expected(x, [carrier])):
        found.wrong.append(f"{name}: {score}")
    found.answers[prediction.request_id] = name
    return True
