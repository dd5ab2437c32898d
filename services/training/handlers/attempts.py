"""Conducts one attempt: prepares it, starts its processes, attends them and records their end.

Whatever happens here may be cut off by a crash of the service: the attempt's processes go on, and
the next life of the service conducts it from where the record and the machine say that it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from services.training.domain.job import InputTable, Job, JobState
from services.training.domain.life import (
    AttemptEnded,
    AttemptPrepared,
    AttemptResult,
    AttemptRunning,
    CodeFetched,
    EndCause,
    InputsSeen,
    RunCreated,
)
from services.training.errors import SourceRefused, SourceUnavailable
from services.training.handlers.changes import Changes, Feed
from services.training.ports import (
    AttemptKey,
    AttemptPlan,
    Catalog,
    Code,
    Jobs,
    Processes,
    Sources,
    Tracking,
)
from tessera_kit.clock import Clock
from tessera_kit.config import Secret
from tessera_kit.errors import DeadlineExceeded, TesseraError
from tessera_kit.telemetry import names

__all__ = ["AttemptConductor", "Surroundings"]

_log = logging.getLogger(__name__)

# The token outlives the deadline by what a polite end may take.
_TOKEN_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every job finds around it."""

    variables: Mapping[str, str]
    """TESSERA_* variables that let the public client work inside the job."""
    cores: int
    """Cores that processes share when a job names no thread count."""


class AttemptConductor:
    """Conducts attempts; one task per attempt.

    Args:
        jobs: Where jobs are kept.
        changes: How they change.
        feed: Wakes when a job is to be cancelled.
        sources: Brings code.
        processes: Runs attempts.
        catalog: Makes the jobs' tokens.
        tracking: Keeps the jobs' runs.
        clock: Time.
        surroundings: What jobs find around them.
        jitter: Random numbers of 0 to 1.
    """

    def __init__(
        self,
        *,
        jobs: Jobs,
        changes: Changes,
        feed: Feed,
        sources: Sources,
        processes: Processes,
        catalog: Catalog,
        tracking: Tracking,
        clock: Clock,
        surroundings: Surroundings,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._jobs = jobs
        self._changes = changes
        self._feed = feed
        self._sources = sources
        self._processes = processes
        self._catalog = catalog
        self._tracking = tracking
        self._clock = clock
        self._surroundings = surroundings
        self._jitter = jitter
        self.stopping = asyncio.Event()
        """Set to stop every attempt, to be resumed by the next life of the service."""

    async def conduct(self, job: Job, *, fresh: bool) -> None:
        """See a job's latest attempt through to its recorded end.

        Args:
            job: The job, with an attempt under way.
            fresh: Whether this process began the attempt; else it may have been started before.
        """
        assert job.attempt is not None  # noqa: S101 - an attempt is under way
        key = AttemptKey(job.job_id, job.attempt.number)
        reason = asyncio.create_task(self._reason_to_stop(job.job_id))
        try:
            if fresh:
                result = await self._bring_up(key, job, reason)
            else:
                result = await self._adopt(key)
            if result is None:
                result = await self._attend(key, reason)
        finally:
            reason.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reason
        ended = AttemptEnded(key.number, self._clock.now(), result, self._jitter())
        await self._changes.apply(key.job_id, ended)
        await self._processes.clear(key)

    async def _bring_up(
        self, key: AttemptKey, job: Job, reason: asyncio.Task[EndCause]
    ) -> AttemptResult | None:
        """Prepare and start; returns the result when it did not come so far."""
        preparing = asyncio.create_task(self._prepare(key, job))
        try:
            await asyncio.wait({preparing, reason}, return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():
                return AttemptResult(reason.result(), message="stopped while it was prepared")
            await self._processes.start(preparing.result())
        except Exception as error:
            return _unprepared(key, error)
        finally:
            if not preparing.done():
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
        await self._record_start(key)
        return None

    async def _adopt(self, key: AttemptKey) -> AttemptResult | None:
        if not await self._processes.adopt(key):
            message = "the service stopped before the attempt's processes were started"
            return AttemptResult(EndCause.LOST, message=message)
        _log.info("attempt %d adopted", key.number, extra={names.JOB_ID: key.job_id})
        await self._record_start(key)
        return None

    async def _record_start(self, key: AttemptKey) -> None:
        job = await self._jobs.get(key.job_id)
        step = job.checkpoint.step if job.checkpoint is not None else 0
        running = AttemptRunning(key.number, self._clock.now(), step)
        await self._changes.apply(key.job_id, running)

    async def _attend(self, key: AttemptKey, reason: asyncio.Task[EndCause]) -> AttemptResult:
        ended = asyncio.create_task(self._processes.wait(key))
        try:
            await asyncio.wait({ended, reason}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._processes.stop(key, reason.result())
            return await ended
        finally:
            ended.cancel()

    async def _reason_to_stop(self, job_id: str) -> EndCause:
        cancelled = asyncio.create_task(self._cancelled(job_id))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({cancelled, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if cancelled.done() and cancelled.exception() is None:
                return EndCause.CANCELLED
            await stopping
            return EndCause.PREEMPTED
        finally:
            for task in (cancelled, stopping):
                task.cancel()
            await asyncio.gather(cancelled, stopping, return_exceptions=True)

    async def _cancelled(self, job_id: str) -> None:
        async with contextlib.aclosing(self._feed.changes(job_id)) as changes:
            async for _ in changes:
                if (await self._jobs.get(job_id)).state is JobState.CANCELLING:
                    return

    async def _prepare(self, key: AttemptKey, job: Job) -> AttemptPlan:
        assert job.deadline_at is not None  # noqa: S101 - the attempt's beginning set it
        left = job.deadline_at - self._clock.now()
        token = await self._catalog.issue_token(
            job.submitted_by, left + _TOKEN_MARGIN, f"training job {key.text}"
        )
        job = await self._changes.apply(key.job_id, AttemptPrepared(key.number, token.token_id))
        if not job.run_id:
            run_id = await self._tracking.create_run(token.secret, job)
            job = await self._changes.apply(key.job_id, RunCreated(run_id))
        code = await self._sources.fetch(key, job.spec.source)
        await self._changes.apply(key.job_id, CodeFetched(key.number, code.git_commit))
        if code.git_commit:
            await self._tracking.note_commit(token.secret, job, code.git_commit)
        if job.spec.input_tables:
            # As late as can be: what is written meanwhile, the job may or may not read.
            versions = await asyncio.gather(
                *map(self._catalog.table_version, job.spec.input_tables)
            )
            tables = tuple(map(InputTable, job.spec.input_tables, versions))
            job = await self._changes.apply(key.job_id, InputsSeen(key.number, tables))
            await self._tracking.note_inputs(token.secret, job, tables)
        return self._plan(key, job, code, token.secret, left)

    def _plan(
        self, key: AttemptKey, job: Job, code: Code, token: Secret, left: timedelta
    ) -> AttemptPlan:
        resources = job.spec.resources
        shared = max(1, self._surroundings.cores // resources.process_count)
        return AttemptPlan(
            key=key,
            code=code,
            arguments=job.spec.arguments,
            environment={
                **job.spec.environment,
                **self._surroundings.variables,
                "TESSERA_JOB_ID": key.job_id,
                "TESSERA_JOB_ATTEMPT": str(key.number),
                "TESSERA_RUN_ID": job.run_id,
                "TESSERA_OUTPUT_MODEL": job.spec.output_model,
            },
            token=token,
            process_count=resources.process_count,
            threads_per_process=resources.threads_per_process or shared,
            memory_mib=resources.memory_mib,
            gpus=job.attempts[-1].gpus,
            gpus_per_process=resources.gpus_per_process,
            seconds_left=left.total_seconds(),
        )


def _unprepared(key: AttemptKey, error: Exception) -> AttemptResult:
    """The result of an attempt that was not started, by what kept it from it."""
    match error:
        case SourceRefused():
            return AttemptResult(EndCause.REFUSED, message=str(error))
        case SourceUnavailable():
            return AttemptResult(EndCause.UNPREPARED, message=str(error))
        case TesseraError() if error.retryable or isinstance(error, DeadlineExceeded):
            return AttemptResult(EndCause.UNPREPARED, message=error.message)
        case TesseraError():
            return AttemptResult(EndCause.REFUSED, message=error.message)
    _log.exception("attempt %d could not be started", key.number, extra={names.JOB_ID: key.job_id})
    return AttemptResult(EndCause.UNPREPARED, message="the attempt could not be started here")
