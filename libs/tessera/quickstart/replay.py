"""Flights through the gateway: in order of their schedule, one per request, many in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tessera.client.aio.client import AsyncClient
from tessera.client.aio.events import label
from tessera.quickstart.flights import CATEGORIES, KEY, LABEL, NUMBERS, TIME
from tessera_kit.errors import TesseraError

IN_FLIGHT = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """One flight's prediction, and what became of the flight."""

    request_id: str
    probability: float
    delayed: float


@dataclass(slots=True)
class Replayed:
    """What was sent and what came back."""

    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    failures: list[str] = field(default_factory=list)


async def replay(
    client: AsyncClient, endpoint: str, flights: pa.Table, advance: Callable[[int], None]
) -> Replayed:
    """Sends each flight as a request of its own; `advance` is told of every answer."""
    result = Replayed()
    requests = enumerate(_requests(flights))
    answers: dict[int, Answer] = {}

    async def worker() -> None:
        for index, (key, inputs, delayed) in requests:
            result.sent += 1
            try:
                prediction = await client.inference.predict(
                    endpoint, inputs, client_request_id=key, timeout=60.0
                )
            except TesseraError as error:
                result.failures.append(f"{key}: {error}")
            else:
                probability = float(prediction.outputs["delay_probability"].item())
                answers[index] = Answer(prediction.request_id, probability, delayed)
            advance(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())
    result.answers = [answers[index] for index in sorted(answers)]
    return result


def _requests(flights: pa.Table) -> Iterator[tuple[str, Mapping[str, npt.NDArray[Any]], float]]:
    """Each flight's key, its inputs as arrays of shape [1, 1], and its outcome."""
    keys = flights[KEY].to_pylist()
    labels = flights[LABEL].to_pylist()
    times = flights[TIME].cast(pa.int64()).to_numpy().reshape(-1, 1, 1)
    texts = {
        name: np.array([[[text.encode()]] for text in flights[name].to_pylist()], dtype=np.object_)
        for name in CATEGORIES
    }
    numbers = {name: flights[name].to_numpy().reshape(-1, 1, 1) for name in NUMBERS}
    for row, key in enumerate(keys):
        inputs = {TIME: times[row]}
        inputs.update((name, column[row]) for name, column in texts.items())
        inputs.update((name, column[row]) for name, column in numbers.items())
        yield key, inputs, labels[row]


async def tell_outcomes(client: AsyncClient, endpoint: str, answers: list[Answer]) -> int:
    """Tells the true outcomes of answered flights as label events over Kafka; returns how many."""
    return await client.events.labels(
        label(endpoint, answer.delayed, request_id=answer.request_id) for answer in answers
    )
