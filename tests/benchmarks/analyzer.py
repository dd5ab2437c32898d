"""Triton's own load generator, where it is at hand; the one in `load` otherwise.

`perf_analyzer` is a compiled client, so that less of the machine goes to asking. It measures until
three windows in a row agree. It ships in the `tritonclient` 2.41.0 wheel (`data/bin`), and runs
with Debian's libb64 and a CUDA runtime beside it in its folder.
"""

from __future__ import annotations

import asyncio
import csv
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import tritonclient.grpc.aio as triton

from tests.benchmarks.load import Target, Window, load_process

__all__ = ["Generator", "load_generator"]

_SETTING = "TESSERA_PERF_ANALYZER"
_FOLDER = Path(".tessera/bench")
_WINDOW_MS = 500
_TRIALS = 10
_AGREE_PERCENT = 10
_ANY_PERCENT = 1000


class Generator(Protocol):
    """Asks a server as fast as it answers."""

    name: str
    """What the report calls it."""

    async def run(self, target: Target, in_flight: int, seconds: float) -> Window:
        """Keeps so many requests on their way for about so many seconds."""


def _program() -> Path | None:
    """Where perf_analyzer is: what the setting names, or in the benchmarks' folder; or nowhere."""
    path = Path(os.environ.get(_SETTING) or _FOLDER / "perf_analyzer")
    return path.absolute() if path.is_file() else None


@asynccontextmanager
async def load_generator() -> AsyncIterator[Generator]:
    """The best generator that is here."""
    program = _program()
    if program is not None:
        yield PerfAnalyzer(program)
        return
    async with load_process() as load:
        yield load


class PerfAnalyzer:
    """Runs `perf_analyzer`, with tensors of its own making.

    Args:
        program: The executable; shared libraries beside it are found.
    """

    name = "perf_analyzer"

    def __init__(self, program: Path) -> None:
        self._program = program

    async def run(self, target: Target, in_flight: int, seconds: float) -> Window:
        """Keeps `in_flight` requests on their way until windows agree, `seconds` at least."""
        window_ms = max(_WINDOW_MS, round(seconds * 1000 / 3))
        before = await _answered(target)
        row = await self._measure(target, in_flight, window_ms, _AGREE_PERCENT)
        if row is None:
            # The machine does not hold still: its last windows must do.
            row = await self._measure(target, in_flight, window_ms, _ANY_PERCENT)
        if row is None:
            raise RuntimeError("perf_analyzer does not measure; its words are above")
        rate = float(row["Inferences/Second"])
        requests = await _answered(target) - before
        return Window(
            in_flight=in_flight,
            requests=requests,
            failures=0,
            seconds=requests / rate,
            p50_ms=float(row["p50 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
        )

    async def _measure(
        self, target: Target, in_flight: int, window_ms: int, percent: int
    ) -> dict[str, str] | None:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "windows.csv"
            command = [str(self._program), "-m", target.model, "-u", target.address, "-i", "grpc"]
            command += ["--concurrency-range", str(in_flight), "--string-length", "2"]
            command += ["-p", str(window_ms), "-r", str(_TRIALS), "-s", str(percent)]
            command += ["-f", str(output)]
            if in_flight > 1:
                command.append("--async")
            if target.token:
                command += ["-H", f"authorization:Bearer {target.token}"]
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, "LD_LIBRARY_PATH": str(self._program.parent)},
                stdout=asyncio.subprocess.DEVNULL,
            )
            await process.wait()
            if not output.is_file():
                return None
            with output.open(encoding="utf-8") as file:
                return next(csv.DictReader(file), None)


async def _answered(target: Target) -> int:
    """Requests that the server has answered so far, warm-ups included."""
    headers = {"authorization": f"Bearer {target.token}"} if target.token else None
    async with triton.InferenceServerClient(target.address) as client:
        found = await client.get_inference_statistics(target.model, headers=headers)
    return sum(int(model.inference_stats.success.count) for model in found.model_stats)
