"""Read a job's log, and follow it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.training.domain.job import Job
from services.training.errors import AttemptNotFound
from services.training.handlers.changes import Feed
from services.training.handlers.jobs import Rights
from services.training.ports import AttemptKey, Jobs, LogRecord, Logs
from tessera_kit.rpc.identity import Principal

__all__ = ["LogHandlers", "LogPage"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class LogPage:
    """The next lines of one attempt's log."""

    attempt: int
    records: Sequence[LogRecord]


class LogHandlers:
    """Reads logs for callers who may see the job."""

    def __init__(self, jobs: Jobs, logs: Logs, feed: Feed, rights: Rights) -> None:
        self._jobs = jobs
        self._logs = logs
        self._feed = feed
        self._rights = rights

    async def read(
        self, principal: Principal, job_id: str, attempt: int, start: int, follow: bool
    ) -> AsyncIterator[LogPage]:
        """The lines from `start` on; with `follow`, those to come until the job is final.

        Args:
            principal: Who asks.
            job_id: The job.
            attempt: Which attempt; 0 for the latest and, when followed, those after it.
            start: Position in the first attempt's log.
            follow: Whether to wait for more.

        Raises:
            JobNotFound: There is no such job.
            PermissionDenied: It may not be seen.
            AttemptNotFound: It has no such attempt.
        """
        job = await self._jobs.get(job_id)
        await self._rights.may_read(principal, job)
        if attempt > len(job.attempts):
            raise AttemptNotFound(f"the job has {len(job.attempts)} attempts")
        number = attempt or max(1, len(job.attempts))
        while True:
            job = await self._jobs.get(job_id)
            over = _is_over(job, number)
            async for page in self._written(AttemptKey(job_id, number), start):
                start = page.records[-1].number + 1
                yield page
            if not follow or (over and (attempt or job.state.is_final)):
                return
            if over and number < len(job.attempts):
                number, start = number + 1, 0
                continue
            await self._more(AttemptKey(job_id, number), start, job)

    async def _written(self, key: AttemptKey, start: int) -> AsyncIterator[LogPage]:
        while records := await self._logs.read(key, start, _BATCH):
            yield LogPage(key.number, records)
            start = records[-1].number + 1

    async def _more(self, key: AttemptKey, start: int, seen: Job) -> None:
        """Wait until the log grows or the job changes."""
        waits = {
            asyncio.ensure_future(self._logs.grown(key, start)),
            asyncio.ensure_future(self._moved(seen)),
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _moved(self, seen: Job) -> None:
        async with contextlib.aclosing(self._feed.changes(seen.job_id)) as changes:
            async for _ in changes:
                job = await self._jobs.get(seen.job_id)
                if job.state is not seen.state or len(job.attempts) != len(seen.attempts):
                    return


def _is_over(job: Job, number: int) -> bool:
    if number > len(job.attempts):
        return job.state.is_final
    return job.attempts[number - 1].state.is_final
