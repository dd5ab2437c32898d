"""A hundred changes of the version that answers, under load: each loads a model and unloads one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

from devstack import Stack
from tessera import AsyncClient
from tests.benchmarks.gateway import answers, caller_of, request_of, rows_written
from tests.benchmarks.load import Target, Window, load_process
from tests.benchmarks.results import Figure, Report, median
from tests.e2e import models
from tests.e2e.world import entity, remove_served, serve_versions

__all__ = ["measure"]

SWAPS: Final = 100
IN_FLIGHT: Final = 1
_WINDOW_SECONDS: Final = 5.0
_LONGEST_SECONDS: Final = 120.0
"""Of one swap."""

Progress = Callable[[str], None]


async def measure(stack: Stack, client: AsyncClient, report: Report, tell: Progress) -> None:
    """Swaps while callers ask all the time; every answer must be one, and a row of the table."""
    since = datetime.now(UTC)
    files = [models.version_files(bias) for bias in (0.0, 1.0)]
    served = await serve_versions(client, files, "bench")
    target = Target(
        stack.urls["gateway"],
        request_of(served.endpoint),
        await caller_of(client, served.endpoint),
    )
    seconds: list[float] = []
    windows: list[Window] = []

    async def swap() -> None:
        for number in range(SWAPS):
            if number % 10 == 0:
                tell(f"swaps: {number} of {SWAPS}")
            began = perf_counter()
            version = 2 - number % 2
            await client.inference.update_config(
                served.endpoint, [entity(served.model, version, 100)]
            )
            await client.inference.wait_ready(served.endpoint, timeout=_LONGEST_SECONDS)
            seconds.append(perf_counter() - began)

    try:
        async with load_process() as load:
            swapping = asyncio.create_task(swap())
            while not swapping.done():
                windows.append(await load.run(target, IN_FLIGHT, _WINDOW_SECONDS))
            await swapping
        answered = answers(windows)
        rows = await rows_written(client, served.endpoint, since, answered)
        configs = await client.inference.endpoint_configs(served.endpoint)
    finally:
        await remove_served(client, served)
    if len(configs) != SWAPS + 1:
        raise RuntimeError(f"{len(configs)} configurations after {SWAPS} swaps")
    failures = sum(window.failures for window in windows)
    report.details["swaps"] = {
        "seconds": seconds,
        "configs": len(configs),
        "windows": [asdict(window) for window in windows],
    }
    report.figures += [
        Figure(
            "swaps",
            f"requests that failed in {len(seconds)} swaps",
            failures,
            "",
            higher_is_better=False,
            note=f"of {answered + failures:,}; {IN_FLIGHT} in flight; "
            f"{next((w.first_failure for w in windows if w.failures), 'none')}",
        ),
        Figure("swaps", "a swap", median(seconds) * 1e3, "ms", higher_is_better=False, note="p50"),
        Figure("swaps", "rows in the inference table", rows, "rows", answered, "answers"),
    ]
