"""Keeps one process alive: starts it when it can, watches its health, restarts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from devstack import child
from devstack.backoff import Backoff
from devstack.events import EventLog, timestamp
from devstack.home import Home
from devstack.probes import NotReady
from devstack.spec import ProcessSpec
from devstack.state import ProcessPhase, ProcessState

START_SECONDS = 120.0
"""A process that is not healthy by then is killed and started again."""
HANG_SECONDS = 60.0
"""So is one that was healthy and has not answered for this long."""
WATCH_INTERVAL = 5.0
_FIRST_POLL, _LONGEST_POLL = 0.03, 0.25


class Keeper:
    """One process and its state; `keep` runs until `stop`."""

    def __init__(
        self,
        spec: ProcessSpec,
        home: Home,
        peers: Mapping[str, Keeper],
        events: EventLog,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.healthy = asyncio.Event()
        self.stopped = asyncio.Event()
        log = home.log_file(spec.name)
        self.state = ProcessState(spec.name, spec.kind, dict(spec.doors), str(log))
        self._log = log
        self._peers = peers
        self._events = events
        self._changed = changed
        self._stop_asked = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._healthy_since: float | None = None

    async def keep(self) -> None:
        """Runs the process over and over until `stop` is called."""
        backoff = Backoff()
        upkeep = asyncio.create_task(self._tend())
        try:
            while not self._stop_asked.is_set():
                await self._until_stop(self._dependencies())
                if self._stop_asked.is_set():
                    break
                healthy_seconds = await self._live()
                if self._stop_asked.is_set():
                    break
                await self._pause(backoff.next_delay(healthy_seconds))
        finally:
            upkeep.cancel()
            self._enter(ProcessPhase.STOPPED)
            self.stopped.set()

    async def stop(self) -> None:
        """Ends the process after those that need it: the stop signal, SIGKILL when time is up."""
        for name, peer in list(self._peers.items()):
            leaves_first = name == self.spec.outlives and peer._stop_asked.is_set()
            if leaves_first or self.spec.name in peer.spec.after:
                await peer.stopped.wait()
        self._stop_asked.set()
        process = self._process
        if process is not None:
            self._enter(ProcessPhase.STOPPING)
            process.send_signal(self.spec.stop_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), self.spec.stop_seconds)
            if not self.stopped.is_set():
                self._events.tell("killed", self.spec.name, reason="did not stop in time")
                child.signal_group(process.pid, signal.SIGKILL)
        await self.stopped.wait()

    async def _dependencies(self) -> None:
        for name in self.spec.after:
            if name in self._peers:
                await self._peers[name].healthy.wait()

    async def _until_stop(self, waited: Awaitable[None]) -> None:
        tasks = [asyncio.ensure_future(waited), asyncio.ensure_future(self._stop_asked.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _live(self) -> float:
        """One life of the process; returns the seconds for which it was healthy."""
        self._healthy_since = None
        try:
            self.spec.prepare()
            process = child.start(self.spec, self._log)
        except OSError as error:
            self._fail(f"cannot start: {error}")
            return 0.0
        self._process = process
        self.state.pid = process.pid
        self.state.started_at = timestamp()
        self._enter(ProcessPhase.STARTING)
        self._events.tell("started", self.spec.name, pid=process.pid)
        watch = asyncio.create_task(self._watch(process))
        try:
            code = await wait_for_exit(process)
        finally:
            watch.cancel()
            child.signal_group(process.pid, signal.SIGKILL)
            self._process = None
            self.healthy.clear()
            self.state.pid, self.state.rss_bytes, self.state.pss_bytes = None, 0, 0
        healthy_seconds = time.monotonic() - self._healthy_since if self._healthy_since else 0.0
        self._events.tell("exited", self.spec.name, how=child.describe_exit(code))
        if not self._stop_asked.is_set():
            self.state.last_exit = f"{child.describe_exit(code)} at {timestamp()}"
            self._fail(child.describe_exit(code))
        return healthy_seconds

    async def _pause(self, seconds: float) -> None:
        self.state.restarts += 1
        self._events.tell(
            "restarting", self.spec.name, in_seconds=round(seconds, 3), restarts=self.state.restarts
        )
        await self._until_stop(asyncio.sleep(seconds))

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Asks for health until the process ends: often at the start, every few seconds after."""
        started = answered = time.monotonic()
        interval = _FIRST_POLL
        while True:
            problem = await self._ask()
            now = time.monotonic()
            if problem is None:
                answered = now
                if not self.healthy.is_set():
                    self._became_healthy(now - started)
            elif self.healthy.is_set() and not self._stop_asked.is_set():
                self._became_unhealthy(problem)
            limit = START_SECONDS if self._healthy_since is None else HANG_SECONDS
            if now - answered > limit:
                self._events.tell("killed", self.spec.name, reason=f"no answer for {limit:.0f} s")
                child.signal_group(process.pid, signal.SIGKILL)
                return
            if self.healthy.is_set():
                interval = WATCH_INTERVAL
            else:
                interval = min(_LONGEST_POLL, interval * 1.5) if problem else _FIRST_POLL
            await asyncio.sleep(interval)

    async def _ask(self) -> str | None:
        """What is wrong with the process's health; None where nothing is."""
        try:
            await self.spec.probe()
        except (NotReady, OSError, TimeoutError) as error:
            return str(error) or type(error).__name__
        return None

    async def _tend(self) -> None:
        """Does the upkeep of the process for ever."""
        upkeep = self.spec.upkeep
        while upkeep is not None:
            await asyncio.sleep(upkeep.interval_seconds)
            await self.healthy.wait()
            try:
                await upkeep.work()
            except Exception as error:
                # Nothing that it finds may end the one who keeps the process alive.
                self._events.tell("upkeep failed", self.spec.name, problem=repr(error))

    def measure(self, children: Mapping[int, Sequence[int]] | None = None) -> None:
        """Takes the memory of the process and its descendants into its state."""
        if self.state.pid is not None:
            memory = child.memory_of(self.state.pid, children)
            self.state.rss_bytes, self.state.pss_bytes = memory.rss, memory.pss

    def _became_healthy(self, seconds: float) -> None:
        if self._healthy_since is None:
            self._healthy_since = time.monotonic()
            self.state.ready_seconds = round(seconds, 3)
        self.healthy.set()
        self.measure()
        self.state.message = ""
        self._enter(ProcessPhase.HEALTHY)
        self._events.tell("healthy", self.spec.name, after_seconds=round(seconds, 3))

    def _became_unhealthy(self, problem: str) -> None:
        self.healthy.clear()
        self.state.message = problem
        self._enter(ProcessPhase.UNHEALTHY)
        self._events.tell("unhealthy", self.spec.name, problem=problem)

    def _fail(self, message: str) -> None:
        self.state.message = message
        self._enter(ProcessPhase.RESTARTING)

    def _enter(self, phase: ProcessPhase) -> None:
        self.state.state = phase
        self._changed()


async def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    """Waits for a child without a thread; returns its code, negative for a signal."""
    descriptor = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    loop.add_reader(descriptor, exited.set)
    try:
        await exited.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()
