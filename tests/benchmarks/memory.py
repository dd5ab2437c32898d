"""The gateway's memory over many requests with a real Triton, authenticated and logged.

It is that of the gateway's own process: Triton's is part of it where Triton runs within, and those
of the models' processes are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from devstack import Stack
from devstack.child import memory_of
from devstack.runtime import Runtime
from tessera import AsyncClient
from tests.benchmarks.gateway import caller_of, request_of
from tests.benchmarks.load import Target, Window, load_process
from tests.benchmarks.results import Figure, Report
from tests.e2e.world import Served
from tests.helpers import eventually
from tests.model_runtime import runtime_of

REQUESTS = 200_000
WARM_UP_REQUESTS = 10_000
"""After which every pool and cache has its size."""
IN_FLIGHT = 32
_PARTS = 10
_LIMIT_SECONDS = 120.0
_MIB = 1 << 20

Progress = Callable[[str], None]


async def measure(
    stack: Stack, client: AsyncClient, served: Served, report: Report, tell: Progress
) -> None:
    """The process's resident memory before and after, each time with every row written."""
    pid = stack.process("inference").pid
    if pid is None:
        raise RuntimeError("the inference service does not run")
    token = await caller_of(client, served.endpoint)
    target = Target(stack.urls["gateway"], request_of(served.endpoint), token)
    before = (await client.inference.table_statistics(served.endpoint)).row_count
    windows: list[Window] = []

    async def settled() -> float:
        wanted = before + sum(window.requests for window in windows)

        async def written() -> int:
            found = await client.inference.table_statistics(served.endpoint)
            assert found.row_count >= wanted, f"{found.row_count} of {wanted} rows"
            return found.row_count

        await eventually(written, timeout=_LIMIT_SECONDS, interval=0.5)
        return _size(pid)

    async with load_process() as load:
        windows.append(await load.run(target, IN_FLIGHT, _LIMIT_SECONDS, WARM_UP_REQUESTS))
        sizes = [await settled()]
        for part in range(_PARTS):
            tell(f"memory: {part * REQUESTS // _PARTS:,} of {REQUESTS:,} requests")
            windows.append(await load.run(target, IN_FLIGHT, _LIMIT_SECONDS, REQUESTS // _PARTS))
            sizes.append(_size(pid))
        sizes[-1] = await settled()
    if stack.process("inference").pid != pid:
        raise RuntimeError("the inference service was started anew meanwhile")
    asked = windows[1:]
    answered = sum(window.requests for window in asked)
    report.details["memory"] = {"mib": sizes, "windows": [asdict(window) for window in windows]}
    rate = answered / sum(window.seconds for window in asked)
    failures = sum(window.failures for window in asked)
    inside = runtime_of(stack) is Runtime.INSIDE
    report.figures.append(
        Figure(
            "memory",
            f"gateway's growth over {answered:,} requests, RSS",
            sizes[-1] - sizes[0],
            "MiB",
            higher_is_better=False,
            note=f"{'with Triton in it' if inside else 'Triton apart'}, models' processes apart; "
            f"from {sizes[0]:.0f} MiB, highest {max(sizes):.0f}; {IN_FLIGHT} in flight, "
            f"{rate:,.0f}/s, {failures} failed",
        )
    )


def _size(pid: int) -> float:
    """Resident MiB of the process without its children, among which are the models' processes."""
    return memory_of(pid, {}).rss / _MIB
