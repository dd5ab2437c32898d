"""The gateway's HTTP door beside its gRPC door and beside Triton's own HTTP door.

All answer the same model. `/invocations`, which Triton does not have, is beside Triton's JSON of
the same numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

import orjson

from devstack import Stack
from tessera import AsyncClient
from tests.benchmarks import echo
from tests.benchmarks.gateway import answers, caller_of, rows_written
from tests.benchmarks.load import Target, Window, load_process
from tests.benchmarks.results import Figure, Report, median
from tests.e2e.world import Served

__all__ = ["FORMS", "SIZE", "figures_of", "measure", "targets_of"]

SIZE: Final = 64
"""Bytes of the tensor."""
IN_FLIGHT: Final = (1, 8, 32)
ROUNDS: Final = 3
WINDOW_SECONDS: Final = 0.7
WARM_UP_SECONDS: Final = 0.3
_HEADER_LENGTH: Final = "inference-header-content-length"

FORMS: Final = {
    "binary": ("HTTP, binary", "Triton's HTTP door, binary", "triton binary"),
    "json": ("HTTP, JSON", "Triton's HTTP door, JSON", "triton json"),
    "invocations": ("/invocations", "Triton's HTTP door, JSON", "triton json"),
    "grpc": ("gRPC", "Triton's gRPC door", "triton grpc"),
}
"""The gateway's forms: name, what it is beside, and the side that this is."""

Progress = Callable[[str], None]
Cell = tuple[str, int]


def targets_of(stack: Stack, endpoint: str, token: str, direct: str) -> dict[str, Target]:
    """Every side by name."""
    gateway, triton = (_host(stack.urls[name]) for name in ("gateway_http", "triton_http"))
    ours, theirs = f"/v2/models/{endpoint}/infer", f"/v2/models/{direct}/infer"
    row = echo.row_of(SIZE)
    x = {"name": "x", "datatype": "FP32", "shape": list(row.shape)}
    head = orjson.dumps(
        {
            "inputs": [{**x, "parameters": {"binary_data_size": row.nbytes}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    )
    binary = head + row.tobytes()
    json = orjson.dumps({"inputs": [{**x, "data": row.ravel().tolist()}]})
    scoring = orjson.dumps({"instances": row.tolist()})
    as_binary = (
        ("content-type", "application/octet-stream"),
        (_HEADER_LENGTH, str(len(head))),
    )
    as_json = (("content-type", "application/json"),)
    grpc_gateway, grpc_triton = stack.urls["gateway"], stack.urls["triton_grpc"]
    invocations = f"/serving-endpoints/{endpoint}/invocations"
    return {
        "binary": Target(gateway, binary, path=ours, headers=as_binary, token=token),
        "json": Target(gateway, json, path=ours, headers=as_json, token=token),
        "invocations": Target(gateway, scoring, path=invocations, headers=as_json, token=token),
        "grpc": Target(grpc_gateway, echo.request_of(endpoint, SIZE), token=token),
        "triton binary": Target(triton, binary, path=theirs, headers=as_binary),
        "triton json": Target(triton, json, path=theirs, headers=as_json),
        "triton grpc": Target(grpc_triton, echo.request_of(direct, SIZE)),
    }


async def measure(
    stack: Stack,
    client: AsyncClient,
    served: Served,
    direct: str,
    report: Report,
    tell: Progress,
) -> None:
    """Rounds of windows that take turns, all by the benchmarks' own client."""
    token = await caller_of(client, served.endpoint)
    targets = targets_of(stack, served.endpoint, token, direct)
    ours = [name for name in targets if name in FORMS]
    since = datetime.now(UTC)
    asked: list[Window] = []
    windows: defaultdict[Cell, list[Window]] = defaultdict(list)

    async def settle() -> int:
        return await rows_written(client, served.endpoint, since, answers(asked))

    async with load_process() as load:

        async def window(side: str, in_flight: int, seconds: float = WINDOW_SECONDS) -> Window:
            found = await load.run(targets[side], in_flight, seconds)
            if found.failures:
                raise RuntimeError(f"{side} failed at {in_flight}: {found.first_failure}")
            if side in ours:
                asked.append(found)
            return found

        for side in targets:
            await window(side, 8, WARM_UP_SECONDS)
        for number in range(1, ROUNDS + 1):
            for in_flight in IN_FLIGHT:
                tell(f"matrix: doors, round {number} of {ROUNDS}, {in_flight} in flight")
                for side in targets if number % 2 else reversed(targets):
                    await settle()
                    windows[side, in_flight].append(await window(side, in_flight))
    rows = await settle()
    report.details["matrix"]["doors"] = {
        "generator": load.name,
        "answered": answers(asked),
        "rows": rows,
        **{
            f"{side}@{in_flight}": [{**asdict(one), "per_second": one.per_second} for one in found]
            for (side, in_flight), found in windows.items()
        },
    }
    report.figures += figures_of(windows)


def figures_of(windows: Mapping[Cell, Sequence[Window]]) -> list[Figure]:
    """Medians of each form at the gateway, beside Triton's own door and beside the gRPC door.

    Args:
        windows: Of each side, at each number in flight.
    """

    def middle(side: str, in_flight: int, read: Callable[[Window], float]) -> float:
        return median([read(one) for one in windows[side, in_flight]])

    def p50(window: Window) -> float:
        return window.p50_ms

    def rate(window: Window) -> float:
        return window.per_second

    return [
        Figure(
            "doors",
            f"{name}, {in_flight} in flight: {told}",
            middle(side, in_flight, read),
            unit,
            middle(peer, in_flight, read),
            beside,
            higher_is_better=unit != "ms",
            calibration=None if side == "grpc" else middle("grpc", in_flight, read),
            calibration_name="the gateway's gRPC door",
        )
        for side, (name, beside, peer) in FORMS.items()
        for in_flight in IN_FLIGHT
        for told, unit, read in (("p50", "ms", p50), ("requests", "/s", rate))
    ]


def _host(url: str) -> str:
    return url.partition("://")[2].rstrip("/")
