"""What is known of a stack: the schema of `stack.json`, which `status --json` prints.

```
{
  "version": 1,
  "home": "/absolute/path",              the data directory
  "state": "starting",                   starting | running | stopping | stopped
  "supervisor": {"pid": 1, "started_at": "…Z", "rss_bytes": 1},
  "updated_at": "2026-11-23T06:00:00Z",
  "doors": {"s3": "http://127.0.0.1:1", "kafka": "127.0.0.1:2", "catalog": "127.0.0.1:3", …},
  "files": {"admin_token": "…", "service_tokens": "…",
            "s3_credentials": "…", "clickhouse_credentials": "…"},
  "processes": [{
    "name": "kafka", "kind": "engine",   engine | service
    "state": "healthy",                  waiting | starting | healthy | unhealthy |
                                         restarting | stopping | stopped
    "pid": 1,                            null while it does not run
    "restarts": 0,                       starts after the first
    "started_at": "…Z", "ready_seconds": 0.4,
    "rss_bytes": 1, "pss_bytes": 1,      of the process and its descendants
    "doors": {"kafka": "127.0.0.1:2"}, "log": "/…/kafka.log",
    "message": "connection refused",     what is wrong now, or empty
    "last_exit": "killed by SIGKILL at …Z"
  }]
}
```
Credentials are named by file, never held here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from devstack.files import read_json, write_json

VERSION = 1


class ProcessPhase(StrEnum):
    """Where a process is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


class StackPhase(StrEnum):
    """Where a stack is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass
class ProcessState:
    """One process, as the supervisor sees it."""

    name: str
    kind: str
    doors: dict[str, str]
    log: str
    state: ProcessPhase = ProcessPhase.WAITING
    pid: int | None = None
    restarts: int = 0
    started_at: str | None = None
    ready_seconds: float | None = None
    rss_bytes: int = 0
    pss_bytes: int = 0
    message: str = ""
    last_exit: str | None = None
    """How and when it last ended without being told to."""


@dataclass
class SupervisorState:
    """The supervisor's own process."""

    pid: int
    started_at: str
    rss_bytes: int = 0


@dataclass
class StackState:
    """Everything in `stack.json`."""

    home: str
    supervisor: SupervisorState
    files: dict[str, str]
    state: StackPhase = StackPhase.STARTING
    updated_at: str = ""
    doors: dict[str, str] = field(default_factory=dict)
    processes: list[ProcessState] = field(default_factory=list)
    version: int = VERSION

    def process(self, name: str) -> ProcessState | None:
        """The process of that name, if it is part of the stack."""
        return next((process for process in self.processes if process.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the schema above."""
        return asdict(self)


def write_state(path: Path, state: StackState) -> None:
    """Replaces `stack.json` in one step."""
    write_json(path, state.as_json())


def read_state(path: Path) -> StackState | None:
    """The state in `stack.json`; None where there is none of this version."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("version") != VERSION:
        return None
    return _parse(value)


def _parse(value: Mapping[str, Any]) -> StackState:
    processes = [
        ProcessState(**{**process, "state": ProcessPhase(process["state"])})
        for process in value["processes"]
    ]
    known = {**value, "state": StackPhase(value["state"]), "processes": processes}
    return StackState(**{**known, "supervisor": SupervisorState(**value["supervisor"])})
