"""Starts waiting jobs as there is room, and takes up attempts that an earlier life left running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime

from services.training.domain.job import Job, JobState
from services.training.domain.life import AttemptBegun, TimeUp
from services.training.domain.queue import Capacity, need, next_job
from services.training.handlers.attempts import AttemptConductor
from services.training.handlers.changes import Changes, Feed
from services.training.ports import AttemptKey, Jobs, Processes
from tessera_kit.clock import Clock
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter, gauge

__all__ = ["Scheduler"]

_log = logging.getLogger(__name__)


class Scheduler:
    """The queue's hand: one per service, in one task.

    Args:
        jobs: Where jobs are kept.
        changes: How they change.
        feed: Wakes when a job was submitted or an attempt ended.
        conductor: Sees attempts through.
        processes: Runs them.
        capacity: What the machine offers.
        clock: Time.
    """

    def __init__(
        self,
        jobs: Jobs,
        changes: Changes,
        feed: Feed,
        conductor: AttemptConductor,
        processes: Processes,
        capacity: Capacity,
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._changes = changes
        self._feed = feed
        self._conductor = conductor
        self._processes = processes
        self._capacity = capacity
        self._clock = clock
        self._conducted: set[str] = set()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Work until `preempt`, or until cancelled: attempts then go on without the service."""
        for state in (state for state in JobState if state.is_final):
            counter(names.TRAINING_JOBS).labels(state.value)
        try:
            async with asyncio.TaskGroup() as group:
                await self._take_up(group)
                while not self._conductor.stopping.is_set():
                    self._feed.moved.clear()
                    wake_at = await self._start_due(group)
                    await self._sleep(wake_at)
        finally:
            self._over.set()

    async def preempt(self, timeout: float) -> None:
        """Stop every attempt so that the next life of the service resumes it; start no more.

        Returns when all ended, or after `timeout` seconds: what then still runs is taken up again
        by the next life.
        """
        self._conductor.stopping.set()
        self._feed.moved.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._over.wait()

    async def _take_up(self, group: asyncio.TaskGroup) -> None:
        jobs = [job for job in await self._jobs.unfinished() if job.state.has_processes]
        under_way = [AttemptKey(job.job_id, len(job.attempts)) for job in jobs]
        await self._processes.sweep(under_way)
        for job in jobs:
            self._conduct(group, job, fresh=False)

    def _conduct(self, group: asyncio.TaskGroup, job: Job, *, fresh: bool) -> None:
        self._conducted.add(job.job_id)
        task = group.create_task(self._conductor.conduct(job, fresh=fresh), name=job.job_id)
        task.add_done_callback(lambda _: self._done(job.job_id))

    def _done(self, job_id: str) -> None:
        self._conducted.discard(job_id)
        self._feed.moved.set()

    async def _start_due(self, group: asyncio.TaskGroup) -> datetime | None:
        """Start what is due and fits; returns when the next waiting job needs a look."""
        while True:
            now = self._clock.now()
            unfinished = await self._jobs.unfinished()
            running = [job for job in unfinished if job.state.has_processes]
            gauge(names.TRAINING_ACTIVE).set(len(running))
            # A job whose last attempt is still being put away is not begun again.
            waiting = [
                job
                for job in unfinished
                if job.state.is_waiting and job.job_id not in self._conducted
            ]
            if await self._end_late(waiting, now):
                continue
            job = next_job(waiting, running, self._capacity, now)
            if job is None:
                return _next_look(waiting, now)
            await self._begin(group, job, running, now)

    async def _begin(
        self, group: asyncio.TaskGroup, job: Job, running: Sequence[Job], now: datetime
    ) -> None:
        held = {gpu for other in running if other.attempt for gpu in other.attempt.gpus}
        free = [gpu for gpu in self._capacity.gpus if gpu not in held]
        wanted = need(job.spec.resources, self._capacity).gpus
        begun = await self._changes.apply(job.job_id, AttemptBegun(now, tuple(free[:wanted])))
        if begun.state is JobState.STARTING:
            _log.info("attempt begun", extra={names.JOB_ID: job.job_id})
            self._conduct(group, begun, fresh=True)

    async def _end_late(self, waiting: Sequence[Job], now: datetime) -> bool:
        late = [job for job in waiting if job.deadline_at is not None and job.deadline_at <= now]
        for job in late:
            await self._changes.apply(job.job_id, TimeUp(now))
        return bool(late)

    async def _sleep(self, wake_at: datetime | None) -> None:
        pause = None
        if wake_at is not None:
            pause = max(0.0, (wake_at - self._clock.now()).total_seconds())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._feed.moved.wait()


def _next_look(waiting: Sequence[Job], now: datetime) -> datetime | None:
    times = [time for job in waiting for time in (job.retry_at, job.deadline_at) if time]
    return min((time for time in times if time > now), default=None)
