"""The gateway, authenticated and logging every request, against the same model asked directly.

Directly is at a `tritonserver` process, whether or not the gateway asks that one too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime

from tritonclient.grpc import service_pb2 as oip

from devstack import Stack
from tessera import AsyncClient
from tessera.catalog.v1 import securable_pb2
from tessera.client.tensors import write_inputs
from tests.benchmarks.analyzer import Generator, load_generator
from tests.benchmarks.load import Target, Window
from tests.benchmarks.results import Figure, Report, median
from tests.e2e import models
from tests.e2e.world import Served, new_user
from tests.helpers import eventually

IN_FLIGHT = (1, 8, 32)
ROUNDS = 5
WINDOW_SECONDS = 1.5
WARM_UP_SECONDS = 1.0
ALL_ROWS_SECONDS = 60.0

Progress = Callable[[str], None]
Settle = Callable[[Iterable[Window]], Awaitable[int]]
"""Waits for the rows of all that these windows' clients were answered; returns how many."""


def request_of(model: str) -> bytes:
    """One row for a model, serialised."""
    request = oip.ModelInferRequest(model_name=model)
    write_inputs(request, models.inputs([0.1, 0.2, 0.3, 0.4], ["UA"], [1_357_034_400]))
    return bytes(request.SerializeToString())


async def caller_of(client: AsyncClient, endpoint: str) -> str:
    """The token of a user who may query the endpoint and nothing else."""
    user = await new_user(client)
    await client.access.grant(
        user.name,
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_ENDPOINT,
        endpoint,
    )
    return user.token


async def measure(
    stack: Stack,
    client: AsyncClient,
    served: Served,
    direct_name: str,
    report: Report,
    tell: Progress,
) -> None:
    """Interleaved windows at 1, 8 and 32 in flight; the median of each."""
    gateway = Target(
        stack.urls["gateway"],
        request_of(served.endpoint),
        await caller_of(client, served.endpoint),
        served.endpoint,
    )
    direct = Target(stack.urls["triton_grpc"], request_of(direct_name), model=direct_name)
    since = datetime.now(UTC)
    warm: list[Window] = []

    async def settle(windows: Iterable[Window]) -> int:
        return await rows_written(client, served.endpoint, since, answers((*warm, *windows)))

    async with load_generator() as load:
        warm.append(await load.run(gateway, 8, WARM_UP_SECONDS))
        await load.run(direct, 8, WARM_UP_SECONDS)
        windows = await _rounds(load, gateway, direct, settle, tell)
    for (side, in_flight), found in windows.items():
        if failed := [window for window in found if window.failures]:
            raise RuntimeError(f"{side} failed at {in_flight} in flight: {failed[0].first_failure}")
    asked = [
        window for (side, _), found in windows.items() if side == "gateway" for window in found
    ]
    answered = answers((*warm, *asked))
    rows = await settle(asked)
    report.details["gateway"] = {
        f"{side}@{in_flight}": [
            {**asdict(window), "per_second": window.per_second} for window in found
        ]
        for (side, in_flight), found in windows.items()
    }
    report.details["gateway"]["generator"] = load.name
    report.details["gateway"]["answered"] = answered
    report.details["gateway"]["rows"] = rows
    for in_flight in IN_FLIGHT:
        report.figures += _figures(
            in_flight, windows["gateway", in_flight], windows["direct", in_flight]
        )
    report.figures.append(
        Figure(
            "gateway",
            "rows in the inference table",
            rows,
            "rows",
            answered,
            "answers that the clients got",
        )
    )


async def _rounds(
    load: Generator, gateway: Target, direct: Target, settle: Settle, tell: Progress
) -> dict[tuple[str, int], list[Window]]:
    """Each window begins when the rows of those before it are in the table.

    So that none is measured beside the work that another one left: a window of one request at a
    time would otherwise compete with the rows of 32.
    """
    windows: defaultdict[tuple[str, int], list[Window]] = defaultdict(list)
    asked: list[Window] = []
    for number in range(1, ROUNDS + 1):
        for in_flight in IN_FLIGHT:
            tell(f"gateway: round {number} of {ROUNDS}, {in_flight} in flight")
            sides = [("direct", direct), ("gateway", gateway)]
            # Who goes first alternates, so that neither always follows the other's aftermath.
            for side, target in sides if number % 2 else reversed(sides):
                await settle(asked)
                window = await load.run(target, in_flight, WINDOW_SECONDS)
                windows[side, in_flight].append(window)
                if side == "gateway":
                    asked.append(window)
    return windows


def answers(windows: Iterable[Window]) -> int:
    """Requests that were answered in windows."""
    return sum(window.requests for window in windows)


async def rows_written(
    client: AsyncClient,
    endpoint: str,
    since: datetime,
    answered: int,
    seconds: float = ALL_ROWS_SECONDS,
) -> int:
    """Waits until the table holds a row per answer; returns how many it holds."""

    async def written() -> int:
        found = await client.inference.table_statistics(endpoint, since=since)
        assert found.row_count >= answered, f"{found.row_count} of {answered} rows"
        return found.row_count

    return await eventually(written, timeout=seconds, interval=0.5)


def _figures(in_flight: int, gateway: list[Window], direct: list[Window]) -> list[Figure]:
    def both(read: Callable[[Window], float]) -> tuple[float, float]:
        return median([read(w) for w in gateway]), median([read(w) for w in direct])

    at = f"{in_flight} in flight"
    p50, p50_direct = both(lambda window: window.p50_ms)
    p99, p99_direct = both(lambda window: window.p99_ms)
    rate, rate_direct = both(lambda window: window.per_second)
    latency = Figure("gateway", "", 0, "ms", peer_name="direct Triton", higher_is_better=False)
    found = [
        replace(latency, name=f"p50, {at}", value=p50, peer=p50_direct),
        replace(latency, name=f"p99, {at}", value=p99, peer=p99_direct),
        Figure("gateway", f"requests, {at}", rate, "/s", rate_direct, "direct Triton"),
    ]
    if in_flight == 1:
        added = Figure(
            "gateway",
            "p50 added, 1 in flight",
            p50 - p50_direct,
            "ms",
            higher_is_better=False,
            note="gateway minus direct",
        )
        found.insert(1, added)
    return found
