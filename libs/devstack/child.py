"""One child process: in its own process group, gone when the supervisor is, measured as a tree."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from devstack.spec import ProcessSpec

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Makes this process the parent of its descendants' orphans: it sees them and can end them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Asks the kernel to kill this process as soon as its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def start(spec: ProcessSpec, log: Path) -> subprocess.Popen[bytes]:
    """Starts the process, its output appended to `log`.

    Raises:
        OSError: the executable cannot be run.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    # Safe between fork and exec: the supervisor has one thread, and this calls prctl only.
    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the supervisor ended between fork and prctl
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            spec.command,
            cwd=spec.directory,
            env=dict(spec.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=in_child,
        )


def signal_group(group: int, number: signal.Signals) -> None:
    """Sends a signal to every process of a group; a group that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


@dataclass(frozen=True)
class Memory:
    """Bytes of a process and its descendants.

    `rss` is resident; `pss` is resident with shared pages divided among their users.
    """

    rss: int
    pss: int


def memory_of(pid: int) -> Memory:
    """The memory of a process tree; zero where it is gone."""
    rss = pss = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                rss += process.memory_info().rss
                pss += _pss(process.pid)
    return Memory(rss, pss)


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss")


def describe_exit(code: int) -> str:
    """An exit code as words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
