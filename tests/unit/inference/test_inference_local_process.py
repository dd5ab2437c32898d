"""The runtime's process is found by where it listens, and only when it is what it should be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.inference.adapters.local_process import LocalRuntimeProcess

LISTENER = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    time.sleep(600)
"""


@pytest.fixture
def listener() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


async def test_it_is_measured_and_ended(listener: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = listener
    local = LocalRuntimeProcess(f"127.0.0.1:{port}", "python")
    size = await local.memory()
    assert size is not None
    assert size > 1 << 20
    await local.end()
    assert process.poll() is not None
    assert await local.memory() is None


@pytest.mark.parametrize("host", ["triton", "10.0.0.1", "127.0.0.1"])
async def test_what_is_elsewhere_or_another_program_is_left_alone(
    listener: tuple[subprocess.Popen[bytes], int], host: str
) -> None:
    process, port = listener
    local = LocalRuntimeProcess(f"{host}:{port}")
    assert await local.memory() is None
    await local.end()
    assert process.poll() is None
