"""The load generator: a process of its own that asks by gRPC or HTTP with the same raw bytes.

It reads one JSON object per line, a window to run, and answers each with one line. Whoever it asks
gets the same bytes from the same code, so that two servers can be compared.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import grpc
import uvloop

from tests.benchmarks.http_caller import HttpCaller
from tests.benchmarks.results import quantile

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LAST_CALL_SECONDS = 30.0
_LARGEST_ANSWER = 64 << 20
ENDLESS = 1_000_000
"""More requests than a window has time for."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server and what it is asked."""

    address: str
    request: bytes
    token: str = ""
    model: str = ""
    """The model's name there, for a generator that makes its requests itself."""
    path: str = ""
    """Where the request is posted; by gRPC, to ModelInfer, when empty."""
    headers: tuple[tuple[str, str], ...] = ()
    """Of the post."""


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
    steady: bool = True
    """False when a generator that looks for agreeing spans of time found none."""

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
        self,
        target: Target,
        in_flight: int,
        seconds: float,
        max_requests: int = ENDLESS,
        *,
        per_second: float = 0.0,
    ) -> Window:
        """Keeps `in_flight` requests on their way for `seconds`, or until all are sent.

        Args:
            target: Who is asked.
            in_flight: How many requests are on their way at once; at most, where they are paced.
            seconds: How long.
            max_requests: How many are sent at most.
            per_second: When not 0, how many are begun in a second, evenly. A request that cannot
                begin in its turn has its waiting counted.
        """
        assert self._process.stdin and self._process.stdout
        order = {
            "address": target.address,
            "request": base64.b64encode(target.request).decode(),
            "token": target.token,
            "path": target.path,
            "headers": target.headers,
            "in_flight": in_flight,
            "seconds": seconds,
            "max_requests": max_requests,
            "per_second": per_second,
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


Ask = Callable[[], Awaitable[str]]
"""Asks once; what went wrong, or nothing."""


class _Servers:
    """Connections to the servers that windows have asked, kept from one window to the next."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._callers: dict[str, list[HttpCaller]] = {}

    def asks(self, order: dict[str, Any]) -> list[Ask]:
        """One way to ask for each request in flight."""
        if order["path"]:
            return self._by_http(order)
        return [self._by_grpc(order)] * order["in_flight"]

    async def close(self) -> None:
        """Close them."""
        for channel in self._channels.values():
            await channel.close()
        for callers in self._callers.values():
            for caller in callers:
                caller.close()

    def _by_grpc(self, order: dict[str, Any]) -> Ask:
        address = order["address"]
        if address not in self._channels:
            options = [
                ("grpc.max_receive_message_length", _LARGEST_ANSWER),
                ("grpc.max_send_message_length", _LARGEST_ANSWER),
            ]
            self._channels[address] = grpc.aio.insecure_channel(address, options)
        call: Any = self._channels[address].unary_unary(_METHOD)
        request = base64.b64decode(order["request"])
        token = order["token"]
        metadata = (("authorization", f"Bearer {token}"),) if token else ()

        async def ask() -> str:
            try:
                await call(request, metadata=metadata, timeout=_LAST_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            return ""

        return ask

    def _by_http(self, order: dict[str, Any]) -> list[Ask]:
        callers = self._callers.setdefault(order["address"], [])
        while len(callers) < order["in_flight"]:
            callers.append(HttpCaller(order["address"]))
        headers = [tuple(header) for header in order["headers"]]
        if order["token"]:
            headers.append(("authorization", f"Bearer {order['token']}"))
        request = HttpCaller.post(order["path"], headers, base64.b64decode(order["request"]))

        def asking(caller: HttpCaller) -> Ask:
            async def ask() -> str:
                async with asyncio.timeout(_LAST_CALL_SECONDS):
                    status, body = await caller.ask(request)
                return "" if status == 200 else f"{status}: {body[:200]!r}"

            return ask

        return [asking(caller) for caller in callers[: order["in_flight"]]]


async def _window(order: dict[str, Any], asks: list[Ask]) -> Window:
    latencies: list[float] = []
    failures: list[str] = []
    most, sent = order["max_requests"], 0
    pause = 1 / order["per_second"] if order["per_second"] else 0.0
    began = perf_counter()
    end = began + order["seconds"]

    async def worker(ask: Ask) -> None:
        nonlocal sent
        while sent < most:
            started = began + sent * pause if pause else perf_counter()
            if started >= end:
                return
            sent += 1
            if (early := started - perf_counter()) > 0:
                await asyncio.sleep(early)
            if failure := await ask():
                failures.append(failure)
            else:
                latencies.append((perf_counter() - started) * 1e3)

    await asyncio.gather(*(worker(ask) for ask in asks))
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
    servers = _Servers()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        window = await _window(order, servers.asks(order))
        sys.stdout.write(json.dumps(asdict(window)) + "\n")
        sys.stdout.flush()
    await servers.close()


if __name__ == "__main__":
    uvloop.run(_serve())
