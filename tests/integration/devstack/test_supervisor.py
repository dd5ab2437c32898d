"""The supervisor: one per directory, its children never outlive it, its errors are clear."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from devstack import AlreadyRunning, Home, Stack, StackError, StartFailed, attach, start_local
from devstack.environment import HOME_MARK
from devstack.plan import ENGINES
from devstack.triton import regions, shared_memory_prefix
from tessera.cli.stack import bring_up
from tests.helpers import eventually
from tests.integration.devstack.clients import clickhouse_client


def processes_of(home: Home) -> list[int]:
    """The living processes that carry the mark of a data directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(HOME_MARK) == str(home.root):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


async def test_a_second_start_is_refused_and_names_the_first(local_stack: Stack) -> None:
    pid = local_stack.state().supervisor.pid
    with pytest.raises(AlreadyRunning, match=rf"already running in .* \(pid {pid}\)"):
        async with start_local(local_stack.home.root, services=()):
            pass
    await local_stack.wait_healthy(timeout=5)


async def test_bringing_up_what_runs_leaves_it_as_it_is(local_stack: Stack) -> None:
    before = {process.name: process.pid for process in local_stack.state().processes}
    stack = await bring_up(local_stack.home.root)
    assert {process.name: process.pid for process in stack.state().processes} == before


def test_nothing_listens_off_loopback(local_stack: Stack) -> None:
    listening = []
    for pid in processes_of(local_stack.home):
        # A process of a model or a job may end between being seen and being asked.
        with suppress(psutil.NoSuchProcess):
            listening += [
                connection.laddr.ip
                for connection in psutil.Process(pid).net_connections("inet")
                if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
            ]
    assert len(listening) > 10
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


async def test_attach_reaches_what_start_local_started(local_stack: Stack) -> None:
    attached = attach(local_stack.home.state_file)
    assert attached.urls == local_stack.urls
    assert attached.environment == local_stack.environment
    variables = dict(local_stack.environment)
    assert attach(variables).urls["kafka"] == local_stack.urls["kafka"]


def test_attach_says_that_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no stack runs in"):
        attach(tmp_path)


async def test_children_die_with_a_killed_supervisor_and_the_next_start_keeps_their_data(
    tmp_path: Path,
) -> None:
    engines = ("clickhouse", "triton", "kafka")
    async with start_local(tmp_path, engines=engines, services=()) as stack:
        urls = dict(stack.urls)
        async with clickhouse_client(stack) as client:
            await client.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
            await client.insert("t", [[7]], column_names=["n"])
        children = processes_of(stack.home)
        assert len(children) >= 4
        os.kill(stack.state().supervisor.pid, signal.SIGKILL)
        await eventually(lambda: not processes_of(stack.home), timeout=10)
        left = f"{shared_memory_prefix(stack.home)}left"
        SharedMemory(left, create=True, size=64).close()
        assert regions(left)
    async with start_local(tmp_path, engines=engines, services=()) as stack:
        assert dict(stack.urls) == urls
        assert not regions(left)
        async with clickhouse_client(stack) as client:
            assert (await client.query("SELECT n FROM t")).result_rows == [(7,)]


async def test_a_stop_leaves_no_process_and_no_open_port(tmp_path: Path) -> None:
    async with start_local(tmp_path, engines=ENGINES, services=()) as stack:
        home = stack.home
        assert processes_of(home)
        ports = re.findall(r":(\d+)", " ".join(stack.urls.values()))
    assert not processes_of(home)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0
    with pytest.raises(StackError, match="no stack runs in"):
        attach(home.root)
    assert not regions(shared_memory_prefix(home))


async def test_processes_are_added_and_taken_out_of_a_running_stack(tmp_path: Path) -> None:
    async with start_local(tmp_path, engines=("triton",), services=()) as stack:
        first = stack.process("triton").pid
        await stack.start("clickhouse")
        assert stack.process("clickhouse").pid
        await stack.stop("clickhouse")
        assert stack.state().process("clickhouse") is None
        assert stack.process("triton").pid == first


async def test_a_process_that_cannot_start_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(broken))
    with pytest.raises(StartFailed, match=r"(?s)kafka is not healthy.*code 3.*disk is on fire"):
        async with start_local(tmp_path / "home", engines=("kafka",), services=()):
            pass
    assert not processes_of(Home.at(tmp_path / "home"))


async def test_a_port_set_by_the_environment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("TESSERA_PORT_TRITON_GRPC", str(port))
    async with start_local(tmp_path, engines=("triton",), services=()) as stack:
        assert stack.urls["triton_grpc"] == f"127.0.0.1:{port}"


async def test_a_taken_port_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("TESSERA_PORT_TRITON_GRPC", str(port))
        with pytest.raises(StackError, match=f"port {port} .TESSERA_PORT_TRITON_GRPC. is already"):
            async with start_local(tmp_path, engines=("triton",), services=()):
                pass
