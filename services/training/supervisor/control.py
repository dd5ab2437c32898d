"""The files through which the service and an attempt's supervisor talk.

    <attempt>/control/plan.json     what to run; written by the service
    <attempt>/control/claim         who has the attempt: its supervisor, or nobody ever
    <attempt>/control/stop          why it is asked to end; written by the service before SIGTERM
    <attempt>/control/result.json   how it ended; written by the supervisor, last
    <attempt>/control/token         the job's token
    <attempt>/logs/                 what its processes wrote (`log_format.py`)
    <attempt>/{code,work,home,tmp}/ where they run

Every file appears whole or not at all. `claim` is made by linking, which only one can: so an
attempt that a service gave up is never begun by a supervisor that was slow to start, and a
supervisor that began is never taken for one that did not.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["AttemptFolder", "Claim", "Plan", "Result", "boot_id", "start_ticks"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor runs."""

    arguments: list[str]
    """Program and arguments of each process."""
    directory: str
    """Their working directory."""
    environment: dict[str, str]
    """Their environment, all of it; RANK and its like are added."""
    process_count: int
    memory_mib: int
    """Per process with its children; 0 for no bound."""
    gpus: list[int]
    gpus_per_process: int
    deadline_unix: float
    """When the job's time is up, in Unix seconds."""
    grace_seconds: float
    """Between SIGTERM and SIGKILL."""
    log_limit_bytes: int
    nice: int
    """Added to the processes' niceness; that of their session beside others."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A living process, told apart from a later one of the same number."""

    pid: int
    """0 when the attempt was given up before it began."""
    ticks: int
    """When it started, in clock ticks since the machine did."""
    boot: str
    """Which start of the machine."""


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended."""

    cause: str
    """Value of an EndCause."""
    exit_code: int
    message: str


class AttemptFolder:
    """The files of one attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = path / "control"
        self.logs = path / "logs"
        self.code = path / "code"
        self.work = path / "work"
        self.home = path / "home"
        self.tmp = path / "tmp"
        self.token = self.control / "token"

    def make(self) -> None:
        """Make the folders, open to nobody else."""
        for folder in (self.control, self.logs, self.code, self.work, self.home, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_plan(self, plan: Plan) -> None:
        """Store the plan."""
        self._write("plan.json", asdict(plan))

    def plan(self) -> Plan:
        """The plan."""
        return Plan(**self._read("plan.json"))

    def claim(self, claim: Claim) -> bool:
        """Take the attempt; False when it was taken before."""
        temporary = self._temporary(asdict(claim))
        try:
            os.link(temporary, self.control / "claim")
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def claimed(self) -> Claim | None:
        """Who took the attempt; None when nobody did yet."""
        try:
            return Claim(**self._read("claim"))
        except FileNotFoundError:
            return None

    def ask_to_stop(self, cause: str) -> None:
        """Say why the attempt is asked to end."""
        self._write("stop", {"cause": cause})

    def stop_cause(self) -> str | None:
        """Why the attempt is asked to end; None when nobody said."""
        try:
            cause: str = self._read("stop")["cause"]
        except FileNotFoundError:
            return None
        return cause

    def write_result(self, result: Result) -> None:
        """Store how the attempt ended."""
        self._write("result.json", asdict(result))

    def result(self) -> Result | None:
        """How the attempt ended; None before."""
        try:
            return Result(**self._read("result.json"))
        except FileNotFoundError:
            return None

    def _read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.control / name).read_text("utf-8"))
        return content

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._temporary(content).replace(self.control / name)

    def _temporary(self, content: dict[str, Any]) -> Path:
        path = self.control / f".{uuid.uuid4().hex}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        return path


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The second field, the name in brackets, may hold anything; the 22nd is the start.
    return int(stat.rpartition(")")[2].split()[19])


def boot_id() -> str:
    """Which start of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
