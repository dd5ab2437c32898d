"""One unmodified client of MLflow in a process of its own, as a training script is.

Run as a module, this is that process: it logs to a run for as long as each line of its input says.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from tests.benchmarks.rest import Window

__all__ = ["ClientProcess", "client_process", "instant_server"]

_START_SECONDS = 60.0
_INSTANT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class ClientProcess:
    """A client that is ready."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def log(self, run_id: str, seconds: float) -> Window:
        """Let it call `log_metric`, one call after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{run_id} {seconds}\n".encode())
        return Window(**json.loads(await self.line(seconds + _START_SECONDS)))

    async def line(self, timeout: float) -> bytes:
        """Return what it says next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            said = await self._process.stdout.readline()
        assert said, "the client ended"
        return said


@asynccontextmanager
async def client_process(url: str) -> AsyncIterator[ClientProcess]:
    """Start a client of the server at `url`, with this process's environment, and end it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.mlflow_client", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        client = ClientProcess(process)
        await client.line(_START_SECONDS)
        yield client
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def instant_server() -> AsyncIterator[str]:
    """Serve `{}` to every request at once; yields the URL.

    What a client reaches here, it reaches nowhere faster: what is missing is its own work.
    """
    server = await asyncio.get_running_loop().create_server(_Instant, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class _Instant(asyncio.Protocol):
    """Answers when a request's head and body are there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length or b"0"):
            self._received = b""
            self._transport.write(_INSTANT)


def _main(url: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=url)
    _say("ready")
    for line in sys.stdin:
        run_id, seconds = line.split()
        client.log_metric(run_id, "loss", 0.5, step=0)
        times: list[float] = []
        began = now = perf_counter()
        while now < began + float(seconds):
            client.log_metric(run_id, "loss", 0.5, step=len(times) + 1)
            sent, now = now, perf_counter()
            times.append(now - sent)
        _say(json.dumps({"calls": len(times), "seconds": now - began, "times": times}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1])
