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

from tests.benchmarks.load import ENDLESS, Target, Window, load_process

__all__ = ["Generator", "load_generator"]

_SETTING = "TESSERA_PERF_ANALYZER"
_FOLDER = Path(".tessera/bench")
_WINDOW_MS = 500
_WINDOWS = 3
"""How many in a row have to agree."""
_TRIALS = 10
_AGREE_PERCENT = 10
_ANY_PERCENT = 1000
_UNSTEADY = b"Failed to obtain stable measurement"


class Generator(Protocol):
    """Asks a server as fast as it answers."""

    name: str
    """What the report calls it."""

    async def run(
        self, target: Target, in_flight: int, seconds: float, max_requests: int = ENDLESS
    ) -> Window:
        """Keeps so many requests on their way for about so many seconds, or requests."""


def _program() -> Path | None:
    """Where perf_analyzer is: what the setting names, or in the benchmarks' folder; or nowhere."""
    path = Path(os.environ.get(_SETTING) or _FOLDER / "perf_analyzer")
    return path.absolute() if path.is_file() else None


@asynccontextmanager
async def load_generator(trials: int = _TRIALS) -> AsyncIterator[Generator]:
    """The best generator that is here.

    Args:
        trials: For how many windows it may look for three that agree, where it does so.
    """
    program = _program()
    if program is not None:
        yield PerfAnalyzer(program, trials)
        return
    async with load_process() as load:
        yield load


class PerfAnalyzer:
    """Runs `perf_analyzer`, with tensors of its own making.

    Args:
        program: The executable; shared libraries beside it are found.
        trials: For how many windows it looks for three that agree; then its last three must do.
    """

    name = "perf_analyzer"

    def __init__(self, program: Path, trials: int = _TRIALS) -> None:
        self._program = program
        self._trials = trials

    async def run(
        self, target: Target, in_flight: int, seconds: float, max_requests: int = ENDLESS
    ) -> Window:
        """Keeps `in_flight` requests on their way until windows agree, `seconds` at least.

        Raises:
            ValueError: The requests are bounded: it counts time alone.
        """
        if max_requests != ENDLESS:
            raise ValueError("perf_analyzer bounds time, not requests")
        span = max(_WINDOW_MS, round(seconds * 1000 / _WINDOWS))
        before = await _answered(target)
        row = await self._measure(target, in_flight, span, self._trials, _AGREE_PERCENT)
        steady = row is not None
        if row is None:
            # The machine does not hold still: its last windows must do.
            row = await self._measure(target, in_flight, span, _WINDOWS, _ANY_PERCENT)
        if row is None:
            raise RuntimeError("perf_analyzer finds no window to tell of")
        rate = float(row["Inferences/Second"])
        requests = await _answered(target) - before
        return Window(
            in_flight=in_flight,
            requests=requests,
            failures=0,
            seconds=requests / rate,
            p50_ms=float(row["p50 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
            steady=steady,
        )

    async def _measure(
        self, target: Target, in_flight: int, window_ms: int, trials: int, percent: int
    ) -> dict[str, str] | None:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "windows.csv"
            command = [str(self._program), "-m", target.model, "-u", target.address]
            command += ["-i", "grpc", "--concurrency-range", str(in_flight), "--string-length", "2"]
            command += ["-p", str(window_ms), "-r", str(trials), "-s", str(percent)]
            command += ["-f", str(output)]
            if in_flight > 1:
                command.append("--async")
            if target.token:
                command += ["-H", f"authorization:Bearer {target.token}"]
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, "LD_LIBRARY_PATH": str(self._program.parent)},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, words = await process.communicate()
            if not output.is_file():
                if _UNSTEADY not in words:
                    raise RuntimeError(words.decode(errors="replace")[-2000:])
                return None
            with output.open(encoding="utf-8") as file:
                return next(csv.DictReader(file), None)


async def _answered(target: Target) -> int:
    """Requests that the server has answered so far, warm-ups included."""
    headers = {"authorization": f"Bearer {target.token}"} if target.token else None
    async with triton.InferenceServerClient(target.address) as client:
        found = await client.get_inference_statistics(target.model, headers=headers)
    return sum(int(model.inference_stats.success.count) for model in found.model_stats)
