"""Runs servers and background tasks of a process until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import uvloop

from tessera_kit.config import ConfigError

__all__ = ["App", "BackgroundTask", "BackgroundTaskFailed", "Server", "run", "serve"]

_log = logging.getLogger(__name__)

_GC_THRESHOLD = 20_000
_SWITCH_SECONDS = 0.0003
"""How long the event loop waits for a thread that computes, such as the one that exports spans.
With Python's 5 ms such a thread kept a gateway's loop for 25 ms at a time, once a second."""


class Server(Protocol):
    """What `serve` starts and stops."""

    @property
    def address(self) -> str:
        """Where it listens."""

    async def start(self) -> None:
        """Begin to answer."""

    async def stop(self) -> None:
        """Drain and end."""


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """Work beside the servers, such as a consumer or a relay."""

    name: str
    """What the log calls it."""
    run: Callable[[], Awaitable[None]]
    """Runs until it is cancelled; may return when its work is done."""


@dataclass(frozen=True, slots=True)
class App:
    """What a process runs."""

    servers: Sequence[Server]
    """Bound, and not started."""
    background: Sequence[BackgroundTask]
    """The work beside them."""


class BackgroundTaskFailed(Exception):
    """A background task died; its error is the cause. The process must not go on without it."""


async def serve(
    server: Server | Sequence[Server],
    background: Sequence[BackgroundTask] = (),
    *,
    stop: asyncio.Event | None = None,
) -> None:
    """Start the servers and tasks, and run until SIGTERM, SIGINT or `stop`.

    Then the servers drain, and after them the background tasks are cancelled. A background task
    that dies stops everything.

    Raises:
        BackgroundTaskFailed: A background task died.
    """
    servers = list(server) if isinstance(server, Sequence) else [server]
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_supervised(task), name=task.name) for task in background]
            try:
                for one in servers:
                    await one.start()
                    _log.info("listening", extra={"server.address": one.address})
                # What start-up made stays for good: the collector need not walk it again and again.
                gc.collect()
                gc.freeze()
                # A request makes hundreds of objects and no cycles: looking at them every 700 is
                # several percent of a busy server.
                gc.set_threshold(_GC_THRESHOLD, 20, 20)
                sys.setswitchinterval(_SWITCH_SECONDS)
                await stopping.wait()
                _log.info("stopping: running calls may end")
            finally:
                await asyncio.gather(*(one.stop() for one in servers))
                for task in tasks:
                    task.cancel()
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    _log.info("stopped")


async def _supervised(task: BackgroundTask) -> None:
    try:
        await task.run()
    except Exception as error:
        _log.exception("background task died", extra={"tessera.task.name": task.name})
        raise BackgroundTaskFailed(f"background task {task.name} died: {error}") from error


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process's main coroutine on uvloop.

    A wrong setting ends the process with status 2 and one line; a background task's death, which
    was logged when it happened, with status 1.
    """
    try:
        uvloop.run(main())
    except ConfigError as error:
        _exit(2, f"configuration: {error}")
    except BackgroundTaskFailed as error:
        _exit(1, str(error))


def _exit(status: int, line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.exit(status)
