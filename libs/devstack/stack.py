"""Start a stack on this machine, or attach to one that runs: for command line and tests alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from shutil import disk_usage
from types import MappingProxyType
from typing import Any

from devstack import lock, logs, settings
from devstack.errors import NotRunning, StackError, StartFailed
from devstack.files import read_json, write_json
from devstack.home import DEFAULT_HOME, Home
from devstack.plan import check_names, default_engines, default_names
from devstack.services import installed
from devstack.state import ProcessPhase, ProcessState, StackPhase, StackState, read_state

START_SECONDS = 120.0
STOP_SECONDS = 60.0
_POLL = 0.05
_HOPELESS_RESTARTS = 4
_LEAST_FREE_BYTES = 256 * 2**20
_FULL_BYTES = 2**20
Watcher = Callable[[StackState], None]


class Stack:
    """A running set of engines and services.

    Those of `start_local`, or of an `attach` to a data directory on this machine, can also be
    killed, started and stopped one by one; an attached cluster can only be spoken to.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        home: Home | None = None,
        supervisor: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self._variables = dict(variables)
        self._home = home
        self._supervisor = supervisor
        self._killed: dict[str, int] = {}

    @property
    def home(self) -> Home:
        """The data directory.

        Raises:
            NotRunning: the stack is attached by variables and has none on this machine.
        """
        if self._home is None:
            raise NotRunning("this stack was attached by its URLs; it has no data directory here")
        return self._home

    @property
    def is_local(self) -> bool:
        """Whether its processes are on this machine, under `home`."""
        return self._home is not None

    @property
    def urls(self) -> Mapping[str, str]:
        """Every door by name (`kafka`, `s3`, `triton_grpc`, `catalog`, …): URL or `host:port`."""
        if self._home is not None:
            return MappingProxyType(self.state().doors)
        return MappingProxyType(settings.doors_of(self._variables))

    @property
    def environment(self) -> Mapping[str, str]:
        """The `TESSERA_*` variables with which clients and tests reach this stack."""
        if self._home is None:
            return MappingProxyType(self._variables)
        state = self.state()
        return MappingProxyType(settings.client_settings(state.doors, state.files))

    def state(self) -> StackState:
        """What `stack.json` says now.

        Raises:
            NotRunning: there is no such file.
        """
        state = read_state(self.home.state_file)
        if state is None:
            raise NotRunning(f"no stack has run in {self.home.root}; start one with `tessera up`")
        return state

    def process(self, name: str) -> ProcessState:
        """The state of one process.

        Raises:
            StackError: the stack has no process of that name.
        """
        process = self.state().process(name)
        if process is None:
            known = ", ".join(known.name for known in self.state().processes)
            raise StackError(f"no process {name!r} in this stack; there are {known}")
        return process

    def restarts(self, name: str) -> int:
        """How often the process was started again since the stack came up."""
        return self.process(name).restarts

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a process, as a crash would; returns its pid.

        Raises:
            StackError: the process does not run.
        """
        pid = self.process(name).pid
        if pid is None:
            raise StackError(f"{name} does not run")
        self._killed[name] = pid
        os.kill(pid, number)
        return pid

    async def wait_healthy(self, *names: str, timeout: float = START_SECONDS) -> None:
        """Waits until the processes (all, where none is named) are healthy.

        A process that was killed through this object must be in a later life.

        Raises:
            StartFailed: one is not healthy by `timeout` seconds, or keeps dying; the message ends
                with its log.
        """
        deadline = time.monotonic() + timeout
        while waiting := self._not_healthy(names):
            hopeless = [process for process in waiting if _is_hopeless(process)]
            if hopeless or time.monotonic() > deadline:
                raise StartFailed(_explain(hopeless or waiting, timeout))
            if lock.holder(self.home) is None:
                raise StartFailed(f"the supervisor ended; see {self.home.log_file('supervisor')}")
            await asyncio.sleep(_POLL)

    async def start(self, *names: str, timeout: float = START_SECONDS) -> None:
        """Adds processes to the running stack and waits until they are healthy."""
        wanted = check_names(names)
        self._desire(lambda desired: desired | wanted)
        await self._wait(lambda: wanted <= _names(self.state()), timeout)
        await self.wait_healthy(*wanted, timeout=timeout)

    async def stop(self, *names: str, timeout: float = STOP_SECONDS) -> None:
        """Takes processes out of the running stack and waits until they are gone."""
        self._desire(lambda desired: desired - set(names))
        await self._wait(lambda: not set(names) & _names(self.state()), timeout)

    async def reap(self) -> None:
        """Waits for the supervisor that this object started, which has been told to stop."""
        if self._supervisor is not None:
            await asyncio.to_thread(self._supervisor.wait)

    def _desire(self, change: Callable[[frozenset[str]], Iterable[str]]) -> None:
        supervisor = lock.holder(self.home)
        if supervisor is None:
            raise NotRunning(f"no stack runs in {self.home.root}")
        desired = frozenset(read_json(self.home.desired_file) or ())
        write_json(self.home.desired_file, sorted(change(desired)))
        os.kill(supervisor, signal.SIGHUP)

    async def _wait(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise StartFailed(f"the supervisor did not follow within {timeout:.0f} s")
            await asyncio.sleep(_POLL)

    def _not_healthy(self, names: Sequence[str]) -> list[ProcessState]:
        state = self.state()
        wanted = [state.process(name) or self.process(name) for name in names] or state.processes
        return [
            process
            for process in wanted
            if process.state is not ProcessPhase.HEALTHY
            or process.pid == self._killed.get(process.name, -1)
        ]


@contextlib.asynccontextmanager
async def start_local(
    home: Path | str | None = None,
    *,
    engines: Sequence[str] | None = None,
    services: Sequence[str] | None = None,
    timeout: float = START_SECONDS,
    on_change: Watcher | None = None,
) -> AsyncIterator[Stack]:
    """Starts engines and services in `home`, waits until they are healthy, stops them at the end.

    `services=None` means every installed one, `engines=None` those that the services need (Triton's
    process unless `TESSERA_RUNTIME` is `inside`); `engines=()` and `services=()` start none of that
    kind. The stack ends with this process, however that ends.

    Raises:
        AlreadyRunning: another stack runs in `home`.
        StackError: a name or a variable is wrong.
        StartFailed: a process did not become healthy; nothing is left running.
    """
    named = default_engines(os.environ) if engines is None else engines
    names = [*named, *(installed() if services is None else services)]
    stack = await launch(home, names, detached=False)
    try:
        await follow_start(stack, timeout, on_change)
        yield stack
    finally:
        await shut_down(stack.home)
        await stack.reap()


def attach(where: Path | str | Mapping[str, str]) -> Stack:
    """A stack that runs already.

    `where` is its data directory or `stack.json`, or the `TESSERA_*` variables of a cluster: as a
    mapping, or a JSON file that holds one object of them.

    Raises:
        NotRunning: there is nothing to attach to.
    """
    if not isinstance(where, (str, Path)):
        return Stack(where)
    path = Path(where).expanduser()
    value = read_json(path) if path.is_file() else None
    if isinstance(value, dict) and "TESSERA_KAFKA_BOOTSTRAP" in value:
        return Stack({str(name): str(text) for name, text in value.items()})
    home = Home.at(path.parent if path.is_file() else path)
    if lock.holder(home) is None:
        raise NotRunning(f"no stack runs in {home.root}; start one with `tessera up`")
    return Stack({}, home)


async def launch(
    home: Path | str | None, names: Sequence[str] | None = None, *, detached: bool
) -> Stack:
    """Starts the supervisor of a data directory and returns once it owns it.

    `follow_start` waits for the rest. A detached supervisor outlives this process; one that is not
    ends with it.

    Raises:
        AlreadyRunning: another stack runs there.
        StackError: the supervisor refused; the message says why.
    """
    place = Home.at(home or os.environ.get("TESSERA_HOME") or DEFAULT_HOME)
    try:
        place.make()
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise StackError(f"the data directory {place.root} cannot be used: {reason}") from None
    if (pid := lock.holder(place)) is not None:
        raise lock.already_running(place, pid)
    if (free := disk_usage(place.root).free) < _LEAST_FREE_BYTES:
        raise StackError(
            f"the disk of {place.root} has {free >> 20} MiB free, and a stack needs "
            f"{_LEAST_FREE_BYTES >> 20} MiB to start; make room, or choose another --home"
        )
    wanted = sorted(check_names(default_names(os.environ) if names is None else names))
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "devstack", str(place.root), *wanted, "--ready", str(writing)]
    process = _spawn(command if detached else [*command, "--die-with-parent"], place, writing)
    os.close(writing)
    answer = (await asyncio.to_thread(_read_line, reading)).strip()
    if answer != "ok":
        await asyncio.to_thread(process.wait)
        raise StackError(answer or f"the supervisor ended; see {place.log_file('supervisor')}")
    return Stack({}, place, process)


async def follow_start(
    stack: Stack, timeout: float = START_SECONDS, on_change: Watcher | None = None
) -> None:
    """Waits until every process is healthy, telling `on_change` of each new state.

    Raises:
        StartFailed: as `Stack.wait_healthy`.
    """
    await stack._wait(lambda: stack.home.state_file.exists(), timeout)
    watching = asyncio.create_task(_watch(stack, on_change)) if on_change else None
    try:
        await stack.wait_healthy(timeout=timeout)
    finally:
        if watching and on_change:
            watching.cancel()
            on_change(stack.state())


async def shut_down(home: Home, timeout: float = STOP_SECONDS) -> bool:
    """Stops the stack of a data directory in order; returns whether one ran.

    Raises:
        StackError: the supervisor did not end in time.
    """
    pid = lock.holder(home)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while lock.holder(home) == pid:
        if time.monotonic() > deadline:
            raise StackError(f"the supervisor (pid {pid}) did not stop within {timeout:.0f} s")
        await asyncio.sleep(_POLL)
    return True


async def _watch(stack: Stack, on_change: Watcher) -> None:
    seen = ""
    while True:
        state = stack.state()
        if state.updated_at != seen:
            seen = state.updated_at
            on_change(state)
        await asyncio.sleep(_POLL)


def _names(state: StackState) -> frozenset[str]:
    return frozenset(process.name for process in state.processes)


def _is_hopeless(process: ProcessState) -> bool:
    return process.ready_seconds is None and process.restarts >= _HOPELESS_RESTARTS


def _explain(processes: Sequence[ProcessState], timeout: float) -> str:
    first = processes[0]
    problem = first.message or f"is {first.state} after {timeout:.0f} s"
    log = Path(first.log)
    tail = "\n".join(f"    {line}" for line in logs.tail(log, 12))
    if disk_usage(log.parent).free < _FULL_BYTES:
        problem += ", and its disk is full"
    others = ", ".join(process.name for process in processes[1:])
    also = f" (nor are {others})" if others else ""
    return f"{first.name} is not healthy{also}: {problem}. Its log, {first.log}, ends with\n{tail}"


def _spawn(command: Sequence[str], home: Home, ready: int) -> subprocess.Popen[bytes]:
    with home.log_file("supervisor").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=home.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(ready,),
            start_new_session=True,
        )


def _read_line(descriptor: int) -> str:
    with os.fdopen(descriptor) as file:
        return file.readline()


def describe(state: StackState) -> dict[str, Any]:
    """The state as `status --json` prints it, also when the supervisor was killed."""
    home = Home.at(state.home)
    if lock.holder(home) is None and state.state is not StackPhase.STOPPED:
        state.state = StackPhase.STOPPED
        for process in state.processes:
            process.state, process.pid = ProcessPhase.STOPPED, None
    return state.as_json()
