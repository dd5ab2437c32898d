"""The loop of a supervisor: output, exits, signals and limits, all in one thread."""

from __future__ import annotations

import os
import selectors
import signal
import time

from services.training.supervisor.control import AttemptFolder, Plan, Result
from services.training.supervisor.log_writer import LogWriter
from services.training.supervisor.ranks import (
    Rank,
    end_descendants,
    free_port,
    nice_session,
    resident_mib,
    start_rank,
)

__all__ = ["Watch"]

_CHUNK = 256 * 1024
_MEMORY_SECONDS = 0.5
_PRIORITY_SECONDS = 0.1


class Watch:
    """Runs the processes of one attempt to their end.

    Args:
        folder: The attempt's files.
        plan: What to run.
    """

    def __init__(self, folder: AttemptFolder, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._log = LogWriter(folder.logs, plan.process_count, plan.log_limit_bytes)
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._stop_asked = False
        self._ranks: list[Rank] = []
        self._failed: Rank | None = None
        self._cause = ""
        self._message = ""
        self._kill_at: float | None = None
        self._next_memory_check = 0.0
        self._in_place = False

    def take_signals(self) -> None:
        """Note SIGTERM and SIGINT as wishes to stop, and wake on them and on ended children."""
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask_to_stop())

    def run(self) -> Result:
        """Start the processes and return how they ended; none is left then."""
        port = free_port()
        for number in range(self._plan.process_count):
            rank = start_rank(self._plan, number, port)
            self._ranks.append(rank)
            self._selector.register(rank.output, selectors.EVENT_READ, rank)
        while any(rank.exit_code is None for rank in self._ranks):
            self._step()
        end_descendants()
        for rank in self._ranks:
            self._drain(rank)
            self._log.finish(rank.number)
        return self._result()

    def end_all(self) -> None:
        """Kill everything that was started."""
        for rank in self._ranks:
            rank.signal(signal.SIGKILL)
        end_descendants()

    def _step(self) -> None:
        self._in_place = self._in_place or nice_session(self._plan.nice)
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                self._clear_wakeups()
            else:
                self._read(key.data)
        self._reap()
        now = time.time()
        if self._stop_asked and not self._cause:
            cause = self._folder.stop_cause() or "preempted"
            self._end_because(cause, "it was asked to stop", now)
        if not self._cause and now >= self._plan.deadline_unix:
            self._end_because("timed_out", "the job's time was up", now)
        self._check_memory(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._signal(signal.SIGKILL)

    def _patience(self) -> float:
        now = time.time()
        times = [self._plan.deadline_unix]
        if self._kill_at is not None:
            # Killed ones are gone in no time; the pause keeps a stuck one from a busy loop.
            times = [max(self._kill_at, now + 0.1)]
        elif self._plan.memory_mib:
            times.append(self._next_memory_check)
        if not self._in_place:
            times.append(now + _PRIORITY_SECONDS)
        return min(max(0.0, min(times) - now), 3600.0)

    def _ask_to_stop(self) -> None:
        self._stop_asked = True

    def _clear_wakeups(self) -> None:
        while True:
            try:
                if len(os.read(self._wake_reader, 4096)) < 4096:
                    return
            except BlockingIOError:
                return

    def _read(self, rank: Rank) -> bool:
        """Log what a process printed; False when there is nothing more now."""
        try:
            data = os.read(rank.output, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(rank.output)
            os.close(rank.output)
            rank.output = -1
            return False
        self._log.write(rank.number, data)
        return True

    def _drain(self, rank: Rank) -> None:
        while rank.output >= 0 and self._read(rank):
            pass

    def _reap(self) -> None:
        for rank in self._ranks:
            if rank.exit_code is not None:
                continue
            # Its group is signalled only while it is not reaped, so its number is still its own.
            code = rank.process.poll()
            if code is None:
                continue
            rank.exit_code = code
            if code != 0 and self._failed is None:
                self._failed = rank
                if not self._cause:
                    self._end_because("exited", "", time.time())

    def _end_because(self, cause: str, message: str, now: float) -> None:
        self._cause, self._message = cause, message
        self._kill_at = now + self._plan.grace_seconds
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            rank.signal(number)

    def _check_memory(self, now: float) -> None:
        limit = self._plan.memory_mib
        if not limit or self._cause or now < self._next_memory_check:
            return
        self._next_memory_check = now + _MEMORY_SECONDS
        for rank in self._ranks:
            if rank.exit_code is None and (held := resident_mib(rank.process.pid)) > limit:
                message = f"process {rank.number} held {held:.0f} MiB of {limit} MiB"
                self._end_because("out_of_memory", message, now)
                self._kill_at = now
                return

    def _result(self) -> Result:
        failed = self._failed
        code = failed.exit_code or 0 if failed is not None else 0
        if self._cause in {"", "exited"}:
            if failed is None:
                return Result("exited", 0, "")
            words = f"process {failed.number} {_ending(code)}"
            return Result("exited", code, f"{words}\n{self._log.tail(failed.number)}".strip())
        return Result(self._cause, code, self._message)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
