"""The load generator: a process of its own that calls ModelInfer with the same raw bytes.

It reads one JSON object per line, a window to run, and answers each with one line. Whoever it asks
gets the same bytes from the same code, so that two servers can be compared.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import grpc
import uvloop

from tests.benchmarks.results import quantile

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LAST_CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server and what it is asked."""

    address: str
    request: bytes
    token: str = ""
    model: str = ""
    """The model's name there, for a generator that makes its requests itself."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a window of load gave."""

    in_flight: int
    requests: int
    failures: int
    seconds: float
    p50_ms: float
    p99_ms: float
    first_failure: str = ""

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds if self.seconds else 0.0


class LoadProcess:
    """Runs windows in the other process. Made by `load_process`."""

    name = "grpc.aio"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(
        self, target: Target, in_flight: int, seconds: float, max_requests: int = 1_000_000
    ) -> Window:
        """Keeps `in_flight` requests on their way for `seconds`, or until all are sent."""
        assert self._process.stdin and self._process.stdout
        order = {
            "address": target.address,
            "request": base64.b64encode(target.request).decode(),
            "token": target.token,
            "in_flight": in_flight,
            "seconds": seconds,
            "max_requests": max_requests,
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended; its error is above")
        return Window(**json.loads(line))


@asynccontextmanager
async def load_process() -> AsyncIterator[LoadProcess]:
    """Starts the load generator; ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield LoadProcess(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


async def _window(order: dict[str, Any], channels: dict[str, grpc.aio.Channel]) -> Window:
    address = order["address"]
    if address not in channels:
        channels[address] = grpc.aio.insecure_channel(address)
    call: Any = channels[address].unary_unary(_METHOD)
    request = base64.b64decode(order["request"])
    metadata = (("authorization", f"Bearer {order['token']}"),) if order["token"] else ()
    latencies: list[float] = []
    failures: list[str] = []
    left = order["max_requests"]
    began = perf_counter()
    end = began + order["seconds"]

    async def worker() -> None:
        nonlocal left
        while left > 0 and (started := perf_counter()) < end:
            left -= 1
            try:
                await call(request, metadata=metadata, timeout=_LAST_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
            else:
                latencies.append((perf_counter() - started) * 1e3)

    await asyncio.gather(*(worker() for _ in range(order["in_flight"])))
    return Window(
        in_flight=order["in_flight"],
        requests=len(latencies),
        failures=len(failures),
        seconds=perf_counter() - began,
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        first_failure=failures[0] if failures else "",
    )


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    channels: dict[str, grpc.aio.Channel] = {}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        window = await _window(json.loads(line), channels)
        sys.stdout.write(json.dumps(asdict(window)) + "\n")
        sys.stdout.flush()
    for channel in channels.values():
        await channel.close()


if __name__ == "__main__":
    uvloop.run(_serve())
