"""Threads that run statements: a bounded pool, and one per named session that keeps something."""

from __future__ import annotations

import asyncio
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


@dataclass
class _Job(Generic[Result]):
    run: Callable[[Session], Result]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Result]

    def resolve(self, session: Session) -> None:
        if self.future.cancelled():
            return
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

    async def run(
        self, job: Callable[[Session], Result], session: str | None, keeps: bool, timeout: float
    ) -> Result:
        """Runs `job` on a connection of the pool, or of the named session where that keeps state.

        Raises:
            QueryError: too many jobs wait already.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        item = _Job(job, loop, future)
        jobs = self._jobs
        if session is not None and (keeps or session in self._sessions):
            jobs = self._named(session, timeout)
        try:
            jobs.put_nowait(item)
        except queue.Full:
            raise QueryError.own(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
                f"Too many simultaneous queries: {jobs.maxsize} wait already",
            ) from None
        return await future

    def close(self) -> None:
        """Ends the threads after the jobs that run now, and closes every connection."""
        for named in self._sessions.values():
            named.jobs.put(None)
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads + [named.thread for named in self._sessions.values()]:
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
