"""The processes of one attempt: started in groups of their own, and ended with all they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.training.supervisor.control import Plan

__all__ = [
    "Rank",
    "become_reaper",
    "end_descendants",
    "free_port",
    "nice_session",
    "resident_mib",
    "start_rank",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Rank:
    """One process of an attempt."""

    number: int
    process: subprocess.Popen[bytes]
    output: int
    """Descriptor that its standard output and error are read from."""
    exit_code: int | None = None
    """Negative for a signal; None while it runs."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its whole group; nothing once it is reaped."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def become_reaper() -> None:
    """Make what the processes leave behind children of this one, so that nothing escapes it."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_rank(plan: Plan, number: int, port: int) -> Rank:
    """Start one process.

    Raises:
        OSError: It could not be started.
    """
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            plan.arguments,
            cwd=plan.directory,
            env={**plan.environment, **_place(plan, number, port)},
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            process_group=0,
            umask=0o077,
            # This process has one thread, so code between fork and exec is safe.
            preexec_fn=lambda: _set_up(plan.nice),
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    os.set_blocking(reader, False)
    return Rank(number, process, reader)


def _place(plan: Plan, number: int, port: int) -> dict[str, str]:
    """Where the process stands among the others, as torch.distributed's `env://` reads it."""
    first = number * plan.gpus_per_process
    gpus = plan.gpus[first : first + plan.gpus_per_process]
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(number),
        "WORLD_SIZE": str(plan.process_count),
        "LOCAL_RANK": str(number),
        "LOCAL_WORLD_SIZE": str(plan.process_count),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
    }


def _set_up(nice: int) -> None:
    # Without its supervisor nobody would end it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Ignored signals stay ignored over exec; handled ones do not.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(nice)
    # When memory runs out, the job goes and not the platform.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800", "ascii")


def nice_session(niceness: int) -> bool:
    """Give this process's session a niceness beside other sessions; False: not now, ask again.

    Kernels with autogroups (sched(7), the default of most distributions) share the processors out
    among sessions first; there nice(2) counts within its own only, and an attempt has one of its
    own. A niceness may be set every 100 ms, by all unprivileged users of the machine together.

    True as well where there is nothing to be done: no autogroups, or the niceness is refused.
    """
    try:
        with Path("/proc/self/autogroup").open("wb", buffering=0) as file:
            # Unbuffered, a write that the kernel puts off (EAGAIN) is None.
            return file.write(b"%d" % niceness) is not None
    except OSError:
        return True


def resident_mib(pid: int) -> float:
    """MiB of memory that a process and its descendants hold; 0 when it is gone."""
    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total / (1 << 20)


def end_descendants() -> None:
    """Kill and reap every process that descends from this one."""
    while True:
        living = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process)
        for process in living:
            with contextlib.suppress(psutil.Error):
                process.kill()
        try:
            # Blocks while something lives, else only clears up.
            while os.waitpid(-1, 0 if living else os.WNOHANG)[0]:
                living = []
        except ChildProcessError:
            return
        if not living and not psutil.Process().children(recursive=True):
            return
