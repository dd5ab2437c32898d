"""A process's life: signals, draining, background tasks, wrong settings."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest

from tessera_kit.rpc.serving import BackgroundTask, BackgroundTaskFailed, serve
from tests.kit_echo import Stub, message

PROCESS = """
import asyncio, os, sys
from tessera_kit.config import RpcConfig, Env
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.serving import BackgroundTask, run, serve
from tests.kit_echo import binding

class Servicer:
    async def Unary(self, request, context):
        print("serving", flush=True)
        await asyncio.sleep(request.number / 1000)
        return request

async def background():
    try:
        await asyncio.Event().wait()
    finally:
        print("background cancelled", flush=True)

async def dying():
    await asyncio.sleep(0.05)
    raise OSError("the bus is gone")

async def main():
    authority = InMemoryAuthority()
    authority.add_principal(Principal("alice"), "token")
    config = RpcConfig.from_env(os.environ, "catalog")
    Env(os.environ).string("TESSERA_NEEDED")
    server = build_server(config, [binding(Servicer())], authenticator=authority)
    print(server.address, flush=True)
    tasks = [BackgroundTask("background", background)]
    if "dying" in sys.argv:
        tasks.append(BackgroundTask("relay", dying))
    await serve(server, tasks)
    print("stopped", flush=True)

run(main)
"""


async def start(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    root = Path(__file__).parents[3]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROCESS, *arguments),
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'libs'}", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_then_cancels_background_work(number: signal.Signals) -> None:
    process = await start(TESSERA_NEEDED="1")
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    async with grpc.aio.insecure_channel(address) as channel:
        request = message("Echo")(text="a", number=300)
        metadata = (("authorization", "Bearer token"),)
        call = Stub(channel).unary(request, metadata=metadata, wait_for_ready=True)
        assert await process.stdout.readline() == b"serving\n"
        process.send_signal(number)
        assert (await call).text == "a"
    rest = (await process.stdout.read()).decode().splitlines()
    assert rest == ["background cancelled", "stopped"]
    assert await process.wait() == 0


async def test_a_dying_background_task_takes_the_process_down() -> None:
    process = await start("dying", TESSERA_NEEDED="1")
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "background task relay died: the bus is gone" in errors.decode()
    assert "background cancelled" in output.decode()


async def test_a_missing_setting_is_one_line_and_status_2() -> None:
    process = await start()
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert errors.decode() == "configuration: TESSERA_NEEDED must be set\n"


class FakeServer:
    """Records when it was started and stopped."""

    def __init__(self, log: list[str], broken: bool = False) -> None:
        self.address, self.log, self.broken = "nowhere:1", log, broken

    async def start(self) -> None:
        if self.broken:
            raise OSError("address in use")
        self.log.append("started")

    async def stop(self) -> None:
        self.log.append("stopped")


async def test_stop_event_ends_it_and_finished_tasks_do_not() -> None:
    log: list[str] = []
    stop = asyncio.Event()

    async def short() -> None:
        log.append("done")
        stop.set()

    await serve(FakeServer(log), [BackgroundTask("short", short)], stop=stop)
    assert log == ["started", "done", "stopped"]


async def test_a_failure_keeps_its_cause() -> None:
    log: list[str] = []

    async def dying() -> None:
        raise OSError("gone")

    with pytest.raises(BackgroundTaskFailed) as caught:
        await serve([FakeServer(log), FakeServer(log)], [BackgroundTask("dying", dying)])
    assert isinstance(caught.value.__cause__, OSError)
    assert log.count("stopped") == 2


async def test_a_server_that_does_not_start_is_the_error() -> None:
    with pytest.raises(OSError, match="address in use"):
        await serve(FakeServer([], broken=True))
