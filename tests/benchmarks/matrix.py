"""The gateway, authenticated and logging all, beside the same model asked directly and by Envoy.

By size of the payload and by requests in flight, in rounds of windows that take turns. A bare Envoy
(one thread, no filters) tells what passing on costs a compiled proxy on this machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from devstack import Stack
from tessera import AsyncClient
from tests.benchmarks import doors, echo
from tests.benchmarks.analyzer import Generator, load_generator
from tests.benchmarks.envoy import bare_envoy
from tests.benchmarks.gateway import answers, caller_of, rows_written
from tests.benchmarks.load import ENDLESS, Target, Window, load_process
from tests.benchmarks.results import Figure, Report, median
from tests.e2e.world import Served, remove_served, serve_versions
from tests.model_runtime import direct_model

__all__ = ["PARTS", "Cell", "Payload", "figures_of", "measure", "turns"]

IN_FLIGHT: Final = (1, 8, 32, 128)
WARM_UP_SECONDS: Final = 1.0
_TRIALS: Final = 5
_SETTLE_SECONDS: Final = 240.0
_PART_SECONDS: Final = 150.0
"""After which no further round of a part is begun that would not fit."""

Progress = Callable[[str], None]
Cell = tuple[str, int]
"""Who is asked, and how many requests are in flight."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A size of request and response, and how it is measured."""

    name: str
    size: int
    """Bytes of the one tensor."""
    rounds: int = 3
    seconds: float = 1.5
    """Of a window."""
    most: int = ENDLESS
    """Requests of a window: large ones are bounded, as each is written to the table twice over."""


PAYLOADS: Final = {
    "64B": Payload("64 B", 64),
    "4KB": Payload("4 KB", 4096),
    "1MB": Payload("1 MB", 1 << 20, rounds=3, seconds=4.0, most=64),
}
HTTP: Final = "http"
PARTS: Final = (*PAYLOADS, HTTP)
"""What can be measured by itself."""


async def measure(
    stack: Stack,
    client: AsyncClient,
    report: Report,
    tell: Progress,
    parts: Collection[str] = (),
) -> None:
    """Every part, or those that are named; each with an endpoint of its own."""
    report.details["matrix"] = {}
    chosen = [part for part in PARTS if not parts or part in parts]
    for part in chosen:
        payload = PAYLOADS.get(part)
        size = doors.SIZE if payload is None else payload.size
        async with _serving(stack, client, size) as (served, direct):
            if payload is None:
                await doors.measure(stack, client, served, direct, report, tell)
            else:
                await _measure(stack, client, served, direct, payload, report, tell)


@asynccontextmanager
async def _serving(
    stack: Stack, client: AsyncClient, size: int
) -> AsyncIterator[tuple[Served, str]]:
    """An endpoint with a model of its own, and the model's name where it is asked directly."""
    served = await serve_versions(client, [echo.version_files(size)], "bench")
    try:
        async with direct_model(stack) as direct:
            yield served, direct
    finally:
        await remove_served(client, served)


async def _measure(
    stack: Stack,
    client: AsyncClient,
    served: Served,
    direct: str,
    payload: Payload,
    report: Report,
    tell: Progress,
) -> None:
    token = await caller_of(client, served.endpoint)
    since = datetime.now(UTC)
    asked: list[Window] = []
    windows: defaultdict[Cell, list[Window]] = defaultdict(list)
    request = echo.request_of(direct, payload.size)
    own = echo.request_of(served.endpoint, payload.size)

    async def settle() -> int:
        # Else a window would be measured beside the work that another one left.
        return await rows_written(client, served.endpoint, since, answers(asked), _SETTLE_SECONDS)

    async with _generator(payload) as load, bare_envoy(stack.urls["triton_grpc"]) as envoy:
        targets = {
            "direct": Target(stack.urls["triton_grpc"], request, model=direct),
            "gateway": Target(stack.urls["gateway"], own, token, served.endpoint),
            "envoy": Target(envoy, request, model=direct),
        }

        async def window(side: str, in_flight: int, seconds: float) -> Window:
            most = payload.most if payload.most == ENDLESS else max(payload.most, 2 * in_flight)
            found = await load.run(targets[side], in_flight, seconds, most)
            if found.failures:
                raise RuntimeError(f"{side} failed at {in_flight}: {found.first_failure}")
            if side == "gateway":
                asked.append(found)
            return found

        for side in targets:
            await window(side, 8, WARM_UP_SECONDS)
        began = monotonic()
        for number in range(1, payload.rounds + 1):
            # Rounds last as long as generator and rows take; one more must fit.
            if (monotonic() - began) / max(1, number - 1) * number > _PART_SECONDS:
                tell(f"matrix: {payload.name}, no time for more than {number - 1} rounds")
                break
            for in_flight, side in turns(tuple(targets), number):
                tell(
                    f"matrix: {payload.name}, round {number} of {payload.rounds}, "
                    f"{in_flight} in flight, {side}"
                )
                await settle()
                windows[side, in_flight].append(await window(side, in_flight, payload.seconds))
    rows = await settle()
    report.details["matrix"][payload.name] = {
        "generator": load.name,
        "answered": answers(asked),
        "rows": rows,
        **told(windows),
    }
    report.figures += figures_of(payload, windows, load.name)
    report.figures.append(
        Figure(
            "matrix",
            f"{payload.name}: rows in the inference table",
            rows,
            "rows",
            answers(asked),
            "answers that the clients got",
        )
    )


def _generator(payload: Payload) -> AbstractAsyncContextManager[Generator]:
    """Triton's own counts time alone; where requests are bounded, the benchmarks' own asks."""
    return load_generator(_TRIALS) if payload.most == ENDLESS else load_process()


def turns(sides: Sequence[str], number: int) -> list[tuple[int, str]]:
    """Requests in flight and side of each window of a round, in order.

    Who goes first moves on with each round, so that nobody always follows another's aftermath.
    """
    return [
        (in_flight, sides[(first + number - 1) % len(sides)])
        for in_flight in IN_FLIGHT
        for first in range(len(sides))
    ]


def told(windows: Mapping[Cell, Sequence[Window]]) -> dict[str, object]:
    """Windows as the report's details have them."""
    return {
        f"{side}@{in_flight}": [{**asdict(one), "per_second": one.per_second} for one in found]
        for (side, in_flight), found in windows.items()
    }


def figures_of(
    payload: Payload, windows: Mapping[Cell, Sequence[Window]], asker: str
) -> list[Figure]:
    """Medians of the gateway's windows beside those of the other two.

    Args:
        payload: What was sent and sent back.
        windows: Of direct, gateway and envoy, at each number in flight.
        asker: Who asked.
    """
    found: list[Figure] = []
    for in_flight in sorted({in_flight for _, in_flight in windows}):

        def middle(read: Callable[[Window], float], at: int = in_flight) -> dict[str, float]:
            return {
                side: median([read(one) for one in windows[side, at]])
                for side in ("direct", "gateway", "envoy")
            }

        def figure(
            name: str,
            unit: str,
            values: dict[str, float],
            note: str = "",
            at: int = in_flight,
        ) -> Figure:
            return Figure(
                "matrix",
                f"{payload.name}, {at} in flight: {name}",
                values["gateway"],
                unit,
                values["direct"],
                "direct Triton",
                higher_is_better=unit != "ms",
                calibration=values["envoy"],
                calibration_name="bare Envoy",
                note=note,
            )

        notes = [f"by {asker}"] if in_flight == IN_FLIGHT[0] else []
        p50 = middle(lambda window: window.p50_ms)
        rate = middle(lambda window: window.per_second)
        every = [one for side in p50 for one in windows[side, in_flight]]
        if unsteady := sum(not one.steady for one in every):
            notes.append(f"{unsteady} of {len(every)} windows found no steady time")
        found.append(figure("p50", "ms", p50, "; ".join(notes)))
        if in_flight == 1:
            added = {side: value - p50["direct"] for side, value in p50.items()}
            found.append(replace(figure("p50 added", "ms", added), peer=None, peer_name=""))
        found.append(figure("p99", "ms", middle(lambda window: window.p99_ms)))
        found.append(figure("requests", "/s", rate))
        if payload.size >= 1 << 20:
            megabytes = {side: value * payload.size / 1e6 for side, value in rate.items()}
            found.append(figure("bodies, each way", "MB/s", megabytes))
    return found
