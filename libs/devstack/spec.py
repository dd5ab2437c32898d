"""What the supervisor needs to know of a process."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

Probe = Callable[[], Awaitable[None]]
"""Speaks the process's own protocol once.

Raises `devstack.probes.NotReady` or `OSError` while the process is not ready.
"""


class Kind(StrEnum):
    """Engines are other people's servers; services are Tessera's own."""

    ENGINE = "engine"
    SERVICE = "service"


def nothing() -> None:
    """The preparation of a process that needs none."""


@dataclass(frozen=True)
class Upkeep:
    """What is done for a process, again and again while it is healthy, as it does not itself."""

    work: Callable[[], Awaitable[None]]
    """One round. What it raises is told, and the next round tries again."""
    interval_seconds: float


@dataclass(frozen=True)
class ProcessSpec:
    """One supervised process."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    """The whole environment of the process; nothing is inherited besides it."""
    directory: Path
    """Its working directory."""
    probe: Probe = field(repr=False)
    doors: Mapping[str, str]
    """Name to URL or `host:port` of each address it answers on."""
    after: frozenset[str] = frozenset()
    """Processes that must be healthy before it starts, and that stop after it."""
    outlives: str = ""
    """A process that is waited for when both are to stop."""
    prepare: Callable[[], None] = nothing
    """Runs before each start, with no process of that name alive.

    It writes files and sweeps what a killed process left.
    """
    stands_back: bool = False
    """Whether callers are answered before it goes on, where all run on one machine that is busy."""
    upkeep: Upkeep | None = field(default=None, repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    """Seconds between the stop signal and SIGKILL."""
