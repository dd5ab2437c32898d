"""MLflow's own server beside the platform: the newest that is installed, SQLite, its workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers import eventually

_START_SECONDS = 120.0
_REST_SECONDS = 1.0
_REST_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class MlflowServer:
    """A server that runs."""

    url: str
    database: Path
    pid: int


@asynccontextmanager
async def mlflow_server(
    workers: int | None = None, *, jobs: bool = True
) -> AsyncIterator[MlflowServer]:
    """Start a server in a folder of its own, wait until it answers, and stop it at the end.

    Args:
        workers: Its processes; as many as it takes by itself when None.
        jobs: Whether it runs jobs too, as it does by itself; their processes take 20 s to start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tessera-bench-mlflow-") as name:
        folder = Path(name)
        database = folder / "mlflow.db"
        words = ["server", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--backend-store-uri", f"sqlite:///{database}"]
        words += ["--artifacts-destination", str(folder / "artifacts")]
        words += [] if workers is None else ["--workers", str(workers)]
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mlflow", *words),
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": str(jobs).lower()},
                start_new_session=True,
            )
            try:
                await eventually(lambda: _answers(port), _START_SECONDS, interval=0.2)
                yield MlflowServer(f"http://127.0.0.1:{port}", database, process.pid)
            finally:
                # Not asked: its workers would finish searches that take minutes first.
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


async def settled(server: MlflowServer) -> None:
    """Wait until it has started in full: it answers long before all of its processes do.

    For 10 to 20 seconds they take all of two cores, and calls then take several times as long.
    """

    async def rests() -> bool:
        before = _cpu_seconds(server.pid)
        await asyncio.sleep(_REST_SECONDS)
        return _cpu_seconds(server.pid) - before < _REST_SHARE * _REST_SECONDS

    await eventually(rests, _START_SECONDS)


def _cpu_seconds(pid: int) -> float:
    seconds = 0.0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")
        return b" 200 " in await reader.readline()
    except ConnectionError:
        return False
    finally:
        writer.close()
