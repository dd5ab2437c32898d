"""Threads that run statements: a bounded pool, and one per named session that keeps something.

One more runs what ends the others' statements, so that it never waits behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from devstack.clickhouse.errors import TOO_MANY_SIMULTANEOUS_QUERIES, QueryError
from devstack.clickhouse.session import Session

Result = TypeVar("Result")
_LARGEST_SESSIONS = 16
_STOP_SECONDS = 0.1
_STOP_ATTEMPTS = 100


@dataclass
class _Job(Generic[Result]):
    run: Callable[[Session], Result]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Result]
    begun: bool = False
    ended: bool = False

    def resolve(self, session: Session) -> None:
        # In this order: whoever gives up on a job that has not begun need not end it.
        self.begun = True
        if not self.future.cancelled():
            self._resolve(session)
        self.ended = True

    def _resolve(self, session: Session) -> None:
        try:
            result = self.run(session)
        except BaseException as error:
            self.loop.call_soon_threadsafe(self._fail, error)
        else:
            self.loop.call_soon_threadsafe(self._finish, result)

    def _finish(self, result: Result) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Jobs = queue.Queue[_Job[Any] | None]


class Workers:
    """Runs jobs on chDB connections, each of which belongs to one thread."""

    def __init__(self, connect: Callable[[], Session], threads: int, waiting: int) -> None:
        self._connect = connect
        # Keeps the engine loaded while other connections come and go.
        self._anchor = connect()
        self._jobs: _Jobs = queue.Queue(waiting)
        self._threads = [self._start(self._jobs) for _ in range(threads)]
        self._sessions: dict[str, _NamedSession] = {}
        self._stops: _Jobs = queue.Queue(waiting)
        self._stopper = self._start(self._stops)
        self._stopping: set[asyncio.Task[None]] = set()

    async def run(
        self,
        job: Callable[[Session], Result],
        session: str | None,
        keeps: bool,
        timeout: float,
        stop: Callable[[Session], object] | None = None,
    ) -> Result:
        """Runs `job` on a connection of the pool, or of the named session where that keeps state.

        When the caller is cancelled, a job that waits never runs, and one that runs is ended by
        `stop`, on another connection.

        Raises:
            QueryError: too many jobs wait already.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        item = _Job(job, loop, future)
        jobs = self._jobs
        if session is not None and (keeps or session in self._sessions):
            jobs = self._named(session, timeout)
        _put(jobs, item)
        try:
            return await future
        except asyncio.CancelledError:
            if stop is not None and item.begun:
                stopping = loop.create_task(self._stop(item, stop))
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)
            raise

    async def end_others(self, job: Callable[[Session], Result]) -> Result:
        """Runs a job that ends other ones, while these may have every other thread.

        Raises:
            QueryError: too many jobs wait already.
        """
        loop = asyncio.get_running_loop()
        item: _Job[Result] = _Job(job, loop, loop.create_future())
        _put(self._stops, item)
        return await item.future

    async def _stop(self, item: _Job[Any], stop: Callable[[Session], object]) -> None:
        # Again and again: the statement may not have reached the engine yet.
        for _ in range(_STOP_ATTEMPTS):
            if item.ended:
                return
            with contextlib.suppress(QueryError):
                await self.end_others(stop)
            await asyncio.sleep(_STOP_SECONDS)

    def close(self) -> None:
        """Ends the threads after the jobs that run now, and closes every connection."""
        for named in self._sessions.values():
            named.jobs.put(None)
        for _ in self._threads:
            self._jobs.put(None)
        self._stops.put(None)
        named_threads = [named.thread for named in self._sessions.values()]
        for thread in [*self._threads, *named_threads, self._stopper]:
            thread.join()
        self._anchor.close()

    def _named(self, name: str, timeout: float) -> _Jobs:
        now = time.monotonic()
        for old in [key for key, named in self._sessions.items() if named.expires < now]:
            self._sessions.pop(old).jobs.put(None)
        named = self._sessions.get(name)
        if named is None:
            if len(self._sessions) >= _LARGEST_SESSIONS:
                raise QueryError.own(
                    TOO_MANY_SIMULTANEOUS_QUERIES,
                    "TOO_MANY_SIMULTANEOUS_QUERIES",
                    f"Too many sessions keep state: {_LARGEST_SESSIONS}",
                )
            jobs: _Jobs = queue.Queue()
            named = self._sessions[name] = _NamedSession(jobs, self._start(jobs), 0.0)
        named.expires = now + timeout
        return named.jobs

    def _start(self, jobs: _Jobs) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(jobs,), daemon=True)
        thread.start()
        return thread

    def _work(self, jobs: _Jobs) -> None:
        session = self._connect()
        while (job := jobs.get()) is not None:
            job.resolve(session)
        session.close()


@dataclass
class _NamedSession:
    jobs: _Jobs
    thread: threading.Thread
    expires: float


def _put(jobs: _Jobs, item: _Job[Any]) -> None:
    try:
        jobs.put_nowait(item)
    except queue.Full:
        raise QueryError.own(
            TOO_MANY_SIMULTANEOUS_QUERIES,
            "TOO_MANY_SIMULTANEOUS_QUERIES",
            f"Too many simultaneous queries: {jobs.maxsize} wait already",
        ) from None
