"""One child process: in its own process group, gone when the supervisor is, measured as a tree."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.spec import ProcessSpec

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_NICENESS = 10
"""Of those that stand back, behind the others of the supervisor's session (decision 4)."""


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
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()
    # One core is left to those who answer callers: niceness alone lets a thread go on that has the
    # core when a request comes (decision 36).
    behind = sorted(os.sched_getaffinity(0))[1:]

    # Safe between fork and exec: it calls the kernel only and takes no lock, which a thread at a
    # process's upkeep could have held.
    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the supervisor ended between fork and prctl
            os._exit(1)
        if spec.stands_back:
            os.nice(_NICENESS)
            if behind:
                os.sched_setaffinity(0, behind)

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


def children_by_parent() -> dict[int, list[int]]:
    """The children of every process on the machine, in one pass over /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in brackets, may hold anything; state and parent follow the last one.
                fields = (path / "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(path.name))
    return children


def memory_of(pid: int, children: Mapping[int, Sequence[int]] | None = None) -> Memory:
    """The memory of a process tree; zero where it is gone.

    `children` is what `children_by_parent` returned, for those who measure several trees.
    """
    children = children_by_parent() if children is None else children
    rss = pss = 0
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        waiting += children.get(current, ())
        with contextlib.suppress(OSError):
            memory = _read_memory(current)
            rss, pss = rss + memory.rss, pss + memory.pss
    return Memory(rss, pss)


def _read_memory(pid: int) -> Memory:
    kilobytes = dict.fromkeys(("Rss", "Pss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in kilobytes:
            kilobytes[name] = int(rest.split()[0])
    return Memory(kilobytes["Rss"] * 1024, kilobytes["Pss"] * 1024)


def describe_exit(code: int) -> str:
    """An exit code as words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
