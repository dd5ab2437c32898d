"""Attempts as real processes: isolated, watched, ended whole, found again by another service."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from services.training.adapters.logs import FileLogs
from services.training.adapters.processes import LocalProcesses, attempt_folder
from services.training.domain.life import EndCause
from services.training.ports import AttemptKey, AttemptPlan, Code
from services.training.supervisor.control import Claim, boot_id, start_ticks
from tessera_kit.config import Secret
from tests.helpers import eventually

KEY = AttemptKey("job-1", 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def processes(root: Path) -> LocalProcesses:
    return new_processes(root)


def new_processes(
    root: Path, grace: float = 5.0, limit: int = 1 << 20, nice: int = 0
) -> LocalProcesses:
    return LocalProcesses(root, grace_seconds=grace, log_limit_bytes=limit, nice=nice)


def plan(program: str, key: AttemptKey = KEY, **changes: object) -> AttemptPlan:
    values: dict[str, object] = {
        "key": key,
        "code": Code(("-c", program), ""),
        "arguments": (),
        "environment": {
            "TESSERA_JOB_ID": key.job_id,
            "TESSERA_JOB_ATTEMPT": str(key.number),
        },
        "token": Secret("tsr_token"),
        "process_count": 1,
        "threads_per_process": 1,
        "memory_mib": 0,
        "gpus": (),
        "gpus_per_process": 0,
        "seconds_left": 60.0,
    }
    return AttemptPlan(**{**values, **changes})  # type: ignore[arg-type]


async def texts(root: Path, key: AttemptKey = KEY, rank: int | None = None) -> list[str]:
    records = await FileLogs(root).read(key, 0, 100_000)
    return [record.text for record in records if rank is None or record.rank == rank]


async def logged(root: Path, text: str) -> None:
    async def seen() -> bool:
        return any(text in line for line in await texts(root))

    await eventually(seen, timeout=20)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_it_runs_in_a_clean_place_with_what_torch_distributed_reads(
    root: Path, processes: LocalProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_S3_SECRET_KEY", "must not be seen")
    code = (
        "import os, sys, pathlib\n"
        "print(sorted(os.environ))\n"
        "print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'],"
        " os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']) > 0)\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['GREETING'], sys.argv[1:])\n"
        "print(pathlib.Path(os.environ['TESSERA_TOKEN_FILE']).read_text())\n"
        "print(os.getsid(0) != os.getpid(), os.getpgid(0) == os.getpid(), os.listdir('.'))\n"
        "print('to stderr', file=sys.stderr)\n"
    )
    environment = {"GREETING": "hello", "RANK": "9"}
    await processes.start(
        plan(
            code,
            process_count=2,
            arguments=("--epochs", "3"),
            environment=environment,
            threads_per_process=3,
        )
    )
    result = await processes.wait(KEY)
    assert (result.cause, result.exit_code) == (EndCause.EXITED, 0)
    for rank in (0, 1):
        lines = await texts(root, rank=rank)
        assert lines[1] == f"{rank} 2 {rank} 127.0.0.1 True"
        assert lines[2:5] == ["3 hello ['--epochs', '3']", "tsr_token", "True True []"]
        assert lines[5] == "to stderr"
        assert "TESSERA_S3_SECRET_KEY" not in lines[0] and "TESSERA_TOKEN'" not in lines[0]
    await processes.clear(KEY)
    assert [path.name for path in attempt_folder(root, KEY).path.iterdir()] == ["logs"]
    assert len(await texts(root)) == 12


def session_niceness(pid: int) -> int | None:
    """As the kernel tells it, "/autogroup-7 nice 0"; None for a session without a group."""
    words = Path(f"/proc/{pid}/autogroup").read_text().split()
    return int(words[2]) if words else None


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(),
    reason="This kernel does not share the processors out among sessions.",
)
async def test_a_job_stands_back_behind_other_sessions_and_its_supervisor(root: Path) -> None:
    before = session_niceness(os.getpid())
    processes = new_processes(root, nice=5)
    await processes.start(plan("import os, time; print('pids', os.getpid()); time.sleep(600)"))
    (pid,) = await started_pids(root)
    await eventually(lambda: session_niceness(pid) == 5)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
    assert session_niceness(os.getpid()) == before
    await processes.stop(KEY, EndCause.CANCELLED)
    await processes.wait(KEY)


async def test_a_failing_process_ends_the_others_and_its_last_words_are_kept(
    root: Path, processes: LocalProcesses
) -> None:
    code = (
        "import os, time\n"
        "if os.environ['RANK'] == '1': raise RuntimeError('no such column')\n"
        "time.sleep(600)\n"
    )
    await processes.start(plan(code, process_count=2))
    result = await processes.wait(KEY)
    assert (result.cause, result.exit_code) == (EndCause.EXITED, 1)
    assert result.message.startswith("process 1 ended with exit code 1\n")
    assert result.message.endswith("RuntimeError: no such column")


async def test_a_killed_process_says_by_what(root: Path, processes: LocalProcesses) -> None:
    await processes.start(plan("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    result = await processes.wait(KEY)
    assert (result.cause, result.exit_code) == (EndCause.EXITED, -9)
    assert result.message.startswith("process 0 was ended by SIGKILL")


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# A child, and a grandchild that left its group and session.
child = subprocess.Popen([sys.executable, "-c", "import signal, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
    start_new_session=True)
print("pids", os.getpid(), child.pid, gone.pid, flush=True)
time.sleep(600)
"""


async def started_pids(root: Path) -> list[int]:
    await logged(root, "pids")
    line = next(line for line in await texts(root) if "pids" in line)
    return [int(word) for word in line.split()[1:]]


async def test_stopping_ends_the_whole_tree_even_what_ignores_it_or_ran_away(root: Path) -> None:
    processes = new_processes(root, grace=0.3)
    await processes.start(plan(STUBBORN))
    pids = await started_pids(root)
    assert all(alive(pid) for pid in pids)
    await processes.stop(KEY, EndCause.CANCELLED)
    result = await processes.wait(KEY)
    assert (result.cause, result.exit_code) == (EndCause.CANCELLED, -9)
    assert not any(alive(pid) for pid in pids)


async def test_what_a_finished_process_leaves_behind_is_ended_too(
    root: Path, processes: LocalProcesses
) -> None:
    code = STUBBORN.strip().removesuffix("time.sleep(600)")
    await processes.start(plan(code))
    result = await processes.wait(KEY)
    assert (result.cause, result.exit_code) == (EndCause.EXITED, 0)
    assert not any(alive(pid) for pid in await started_pids(root))


async def test_a_polite_process_may_save_before_it_goes(
    root: Path, processes: LocalProcesses
) -> None:
    code = (
        "import signal, sys, time\n"
        "def leave(*_): print('saved'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    await processes.start(plan(code))
    await logged(root, "ready")
    await processes.stop(KEY, EndCause.PREEMPTED)
    result = await processes.wait(KEY)
    assert (result.cause, result.exit_code) == (EndCause.PREEMPTED, 0)
    assert await texts(root) == ["ready", "saved"]


async def test_time_that_is_up_ends_it(root: Path, processes: LocalProcesses) -> None:
    await processes.start(plan("import time; time.sleep(600)", seconds_left=0.5))
    result = await processes.wait(KEY)
    assert result.cause is EndCause.TIMED_OUT


async def test_too_much_memory_ends_it(root: Path, processes: LocalProcesses) -> None:
    code = "import time\nkept = bytearray(300 << 20)\nkept[::4096] = b'x' * len(kept[::4096])\n"
    await processes.start(plan(code + "time.sleep(600)", memory_mib=100))
    result = await processes.wait(KEY)
    assert result.cause is EndCause.OUT_OF_MEMORY
    assert "of 100 MiB" in result.message


async def test_another_life_of_the_service_finds_it_running(
    root: Path, processes: LocalProcesses
) -> None:
    await processes.start(plan("import time\nprint('ready')\ntime.sleep(600)"))
    await logged(root, "ready")
    later = new_processes(root)
    assert await later.adopt(KEY)
    waiting = asyncio.create_task(later.wait(KEY))
    await later.stop(KEY, EndCause.CANCELLED)
    assert (await waiting).cause is EndCause.CANCELLED
    assert await new_processes(root).adopt(KEY)
    assert (await new_processes(root).wait(KEY)).cause is EndCause.CANCELLED


async def test_what_was_given_up_before_it_started_never_starts(
    root: Path, processes: LocalProcesses
) -> None:
    attempt_folder(root, KEY).make()
    assert not await processes.adopt(KEY)
    with pytest.raises(OSError, match="did not start"):
        await processes.start(plan("print('ran')"))
    assert await texts(root) == []


async def test_it_is_never_started_twice(root: Path, processes: LocalProcesses) -> None:
    one = plan("print('ran')")
    await processes.start(one)
    await processes.wait(KEY)
    # The second supervisor finds the attempt taken and does nothing.
    await processes.start(one)
    assert (await processes.wait(KEY)).exit_code == 0
    assert await texts(root) == ["ran"]


async def test_a_killed_supervisor_takes_its_processes_along(
    root: Path, processes: LocalProcesses
) -> None:
    await processes.start(plan(STUBBORN))
    pids = await started_pids(root)
    claim = attempt_folder(root, KEY).claimed()
    assert claim is not None
    os.kill(claim.pid, signal.SIGKILL)
    result = await processes.wait(KEY)
    assert result.cause is EndCause.LOST
    assert not any(alive(pid) for pid in pids)


async def test_a_number_that_another_process_has_now_is_left_alone(
    root: Path, processes: LocalProcesses
) -> None:
    folder = attempt_folder(root, KEY)
    folder.make()
    bystander = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(600)"
    )
    try:
        ticks = start_ticks(bystander.pid)
        assert ticks is not None
        assert folder.claim(Claim(bystander.pid, ticks - 1, boot_id()))
        await processes.stop(KEY, EndCause.CANCELLED)
        assert (await processes.wait(KEY)).cause is EndCause.LOST
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        await bystander.wait()


async def test_a_program_that_is_not_there_is_told(root: Path, processes: LocalProcesses) -> None:
    missing = plan("", code=Code(("-m", "no_such_module_here"), ""))
    await processes.start(missing)
    result = await processes.wait(KEY)
    assert result.exit_code == 1
    assert "No module named no_such_module_here" in result.message


async def test_logs_of_much_output_are_bounded_and_keep_their_order(root: Path) -> None:
    processes = new_processes(root, limit=20_000)
    await processes.start(plan("for n in range(100000): print('line', n)"))
    assert (await processes.wait(KEY)).exit_code == 0
    lines = await texts(root)
    assert lines[-1] == "[the log is full; what follows is dropped]"
    numbers = [int(line.split()[1]) for line in lines[:-2]]
    assert numbers == list(range(len(numbers)))


async def test_sweeping_keeps_what_is_under_way_and_every_log(
    root: Path, processes: LocalProcesses
) -> None:
    for number in (1, 2):
        key = AttemptKey("job-1", number)
        await processes.start(plan(f"print('attempt {number}')", key))
        await processes.wait(key)
    await processes.sweep([KEY])
    assert attempt_folder(root, KEY).control.exists()
    assert not attempt_folder(root, AttemptKey("job-1", 2)).control.exists()
    assert await texts(root, AttemptKey("job-1", 2)) == ["attempt 2"]
