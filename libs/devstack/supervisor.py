"""The supervisor: owns the processes of one data directory and writes `stack.json`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence

from devstack import child, logs, settings, sweep
from devstack.events import EventLog, log, timestamp
from devstack.files import read_json
from devstack.home import Home
from devstack.keeper import Keeper
from devstack.plan import Plan, make_plan
from devstack.ports import PortClaims
from devstack.state import (
    ProcessPhase,
    StackPhase,
    StackState,
    SupervisorState,
    write_state,
)

HOUSEKEEPING_INTERVAL = 2.0
_MEASURE_INTERVAL = 10.0
"""How old the memory of a process may be: to read it costs more than all else here."""
_WRITE_INTERVAL = 0.05


class Supervisor:
    """Keeps the planned processes running until it is told to stop."""

    def __init__(self, home: Home, environment: Mapping[str, str]) -> None:
        self._home = home
        self._environment = environment
        self._events = EventLog(home.events_file)
        self._keepers: dict[str, Keeper] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._plan: Plan | None = None
        self._claims = PortClaims()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        identity = SupervisorState(os.getpid(), timestamp())
        self._state = StackState(str(home.root), identity, settings.files(home))

    def plan(self, names: Sequence[str]) -> None:
        """Decides ports and processes before anything starts.

        Raises:
            StackError: the names, ports or engines cannot be had.
        """
        for pid in sweep.end_orphans(self._home):
            self._events.tell("swept", None, pid=pid)
        self._plan = make_plan(self._home, names, self._environment, self._claims)

    async def run(self) -> None:
        """Starts everything planned, keeps it alive, and stops it in order at the end."""
        child.become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reconcile)
        self._follow_plan()
        writer = asyncio.create_task(self._write())
        housekeeping = asyncio.create_task(self._housekeeping())
        await self._stop.wait()
        self._events.tell("stopping")
        self._set_phase(StackPhase.STOPPING)
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))
        await asyncio.gather(*self._lives)
        for task in (writer, housekeeping):
            task.cancel()
        sweep.end_orphans(self._home)
        self._set_phase(StackPhase.STOPPED)
        self._write_now()
        self._claims.close()
        self._events.tell("stopped")

    def _follow_plan(self) -> None:
        """Starts the planned processes that do not run yet."""
        assert self._plan is not None  # noqa: S101 - `plan` comes first
        for spec in self._plan.specs:
            if spec.name not in self._keepers:
                keeper = Keeper(spec, self._home, self._keepers, self._events, self._note)
                self._keepers[spec.name] = keeper
                life = asyncio.create_task(keeper.keep(), name=spec.name)
                self._lives.add(life)
                life.add_done_callback(self._lives.discard)
        self._state.doors = dict(self._plan.doors)
        self._note()

    def _reconcile(self) -> None:
        """Reads the desired names again: starts what is new, stops what is gone."""
        names = read_json(self._home.desired_file)
        if not isinstance(names, list) or self._plan is None:
            return
        try:
            plan = make_plan(self._home, names, self._environment, self._claims, self._plan.ports)
        except Exception as error:
            self._events.tell("refused", None, problem=str(error))
            return
        wanted = {spec.name for spec in plan.specs}
        gone = [keeper for name, keeper in self._keepers.items() if name not in wanted]
        self._plan = plan
        self._follow_plan()
        for keeper in gone:
            task = asyncio.create_task(self._retire(keeper))
            self._lives.add(task)
            task.add_done_callback(self._lives.discard)

    async def _retire(self, keeper: Keeper) -> None:
        await keeper.stop()
        self._keepers.pop(keeper.spec.name, None)
        self._note()

    def _note(self) -> None:
        """Something changed: the state file is written soon."""
        self._changed.set()

    def _set_phase(self, phase: StackPhase) -> None:
        self._state.state = phase
        self._note()

    async def _write(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._write_now()
            await asyncio.sleep(_WRITE_INTERVAL)

    def _write_now(self) -> None:
        states = [keeper.state for keeper in self._keepers.values()]
        if self._state.state in (StackPhase.STARTING, StackPhase.RUNNING):
            healthy = all(state.state is ProcessPhase.HEALTHY for state in states)
            # A stack that was complete once is running; what is down is seen in its process.
            if healthy:
                self._state.state = StackPhase.RUNNING
        self._state.processes = states
        self._state.updated_at = timestamp()
        try:
            write_state(self._home.state_file, self._state)
        except OSError as error:
            # A full disk is no reason to let go of the processes; the next change writes again.
            log.warning("%s cannot be written: %s", self._home.state_file, error.strerror)

    async def _housekeeping(self) -> None:
        measured = 0.0
        while True:
            await asyncio.sleep(HOUSEKEEPING_INTERVAL)
            self._rotate_logs()
            if time.monotonic() - measured >= _MEASURE_INTERVAL:
                self._measure()
                measured = time.monotonic()

    def _rotate_logs(self) -> None:
        paths = [self._home.log_file(name) for name in (*self._keepers, "supervisor")]
        for path in (*paths, self._home.events_file):
            try:
                logs.rotate(path)
            except OSError as error:
                log.warning("%s cannot be cut: %s", path, error.strerror)

    def _measure(self) -> None:
        children = child.children_by_parent()
        for keeper in self._keepers.values():
            keeper.measure(children)
        self._state.supervisor.rss_bytes = child.memory_of(os.getpid(), {}).rss
        self._reap_adopted(children.get(os.getpid(), ()))
        self._note()

    def _reap_adopted(self, children: Sequence[int]) -> None:
        """Collects the exit of adopted descendants; keepers wait for our own children."""
        own = {keeper.state.pid for keeper in self._keepers.values()}
        for pid in children:
            if pid not in own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
