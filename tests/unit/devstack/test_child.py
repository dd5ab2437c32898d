"""Where a started process stands: in a session, in line for the processors, ended as a group."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from devstack import child
from devstack.spec import Kind, ProcessSpec
from tests.helpers import eventually

Start = Callable[[bool], subprocess.Popen[bytes]]


async def healthy() -> None:
    """A probe of what has nothing to be asked."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "sleeper.log"


@pytest.fixture
def start(tmp_path: Path, log: Path) -> Iterator[Start]:
    started = []

    def one(stands_back: bool) -> subprocess.Popen[bytes]:
        spec = ProcessSpec(
            name="sleeper",
            kind=Kind.ENGINE,
            command=("/bin/sh", "-c", "sleep 600 & echo $!; wait"),
            environment={"PATH": os.defpath},
            directory=tmp_path,
            probe=healthy,
            doors={},
            stands_back=stands_back,
        )
        started.append(child.start(spec, log))
        return started[-1]

    yield one
    for process in started:
        child.signal_group(process.pid, signal.SIGKILL)
        process.wait()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("stands_back", [False, True])
async def test_a_process_leads_its_group_and_is_ended_with_it(
    start: Start, log: Path, stands_back: bool
) -> None:
    process = start(stands_back)
    assert os.getpgid(process.pid) == process.pid
    inner = int(await eventually(lambda: log.read_text().strip() or None))
    assert alive(inner)
    child.signal_group(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    await eventually(lambda: not alive(inner))


@pytest.mark.parametrize(("stands_back", "more"), [(False, 0), (True, 10)])
def test_one_that_stands_back_does_so_within_its_supervisors_session(
    start: Start, stands_back: bool, more: int
) -> None:
    """Niceness counts there, and not beside others (decision 4)."""
    process = start(stands_back)
    assert os.getsid(process.pid) == os.getsid(0)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, own + more)


@pytest.mark.parametrize("cores", [1, 2])
def test_one_that_stands_back_leaves_a_core_where_there_are_several(
    start: Start, cores: int
) -> None:
    """A thread at its lower priority would still keep whom it meets on a core waiting (36)."""
    own = os.sched_getaffinity(0)
    if len(own) < cores:
        pytest.skip(f"this process may use {len(own)} core, and the test needs {cores}")
    allowed = sorted(own)[:cores]
    os.sched_setaffinity(0, allowed)
    try:
        assert os.sched_getaffinity(start(False).pid) == set(allowed)
        assert os.sched_getaffinity(start(True).pid) == set(allowed[1:] or allowed)
        assert os.sched_getaffinity(0) == set(allowed)
    finally:
        os.sched_setaffinity(0, own)
