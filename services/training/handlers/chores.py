"""Pays what stored changes owe to other systems, however often it takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from services.training.domain.chore import Chore, ChoreKind
from services.training.domain.job import Job
from services.training.errors import JobNotFound
from services.training.handlers.changes import Feed
from services.training.handlers.runtime import checkpoint_prefix
from services.training.handlers.triggers import TriggerHandlers
from services.training.ports import Catalog, CheckpointFiles, Chores, Jobs, Tracking
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.store.objects import ObjectStore

__all__ = ["ChoreRunner", "superseded"]

_log = logging.getLogger(__name__)
_BATCH = 64
_MOST_TRIES = 100
_LONGEST_PAUSE = timedelta(minutes=5)
_END_RUN_TOKEN = timedelta(minutes=5)


class ChoreRunner:
    """Does chores in one task; those of one subject in order, others beside each other.

    Args:
        chores: What is owed.
        jobs: Where jobs are kept.
        files: Which files checkpoints have.
        objects: Where their bytes are.
        catalog: Makes and revokes tokens.
        tracking: Keeps the jobs' runs.
        triggers: Fires triggers.
        feed: Wakes when a chore was stored.
        clock: Time.
        keep_checkpoints: How many checkpoints a running job keeps.
    """

    def __init__(
        self,
        *,
        chores: Chores,
        jobs: Jobs,
        files: CheckpointFiles,
        objects: ObjectStore,
        catalog: Catalog,
        tracking: Tracking,
        triggers: TriggerHandlers,
        feed: Feed,
        clock: Clock,
        keep_checkpoints: int,
    ) -> None:
        self._chores = chores
        self._jobs = jobs
        self._files = files
        self._objects = objects
        self._catalog = catalog
        self._tracking = tracking
        self._triggers = triggers
        self._feed = feed
        self._clock = clock
        self._keep = keep_checkpoints

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._feed.owed.clear()
            while await self.work():
                pass
            next_due = await self._chores.next_due()
            pause = None
            if next_due is not None:
                pause = max(0.0, (next_due - self._clock.now()).total_seconds())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._feed.owed.wait()

    async def work(self) -> bool:
        """Do what is due now, one batch; returns whether there was anything."""
        due = await self._chores.due(self._clock.now(), _BATCH)
        by_subject: defaultdict[str, list[Chore]] = defaultdict(list)
        for chore in due:
            by_subject[chore.subject].append(chore)
        async with asyncio.TaskGroup() as group:
            for chores in by_subject.values():
                group.create_task(self._in_order(chores))
        return bool(due)

    async def _in_order(self, chores: Sequence[Chore]) -> None:
        for chore in chores:
            try:
                await self._do(chore)
            except (TesseraError, OSError) as error:
                if not await self._postpone(chore, error):
                    continue
                return
            await self._chores.done(chore.chore_id)

    async def _postpone(self, chore: Chore, error: Exception) -> bool:
        """Put a failed chore off; returns False when it is given up."""
        if chore.tries + 1 >= _MOST_TRIES:
            _log.error("chore %s is given up: %s", chore.chore_id, error)
            await self._chores.done(chore.chore_id)
            return False
        _log.warning("chore %s is tried again later: %s", chore.chore_id, error)
        pause = min(timedelta(seconds=0.5 * 2.0 ** min(chore.tries, 20)), _LONGEST_PAUSE)
        await self._chores.postpone(chore.chore_id, self._clock.now() + pause)
        return True

    async def _do(self, chore: Chore) -> None:
        match chore.kind:
            case ChoreKind.REVOKE_TOKEN:
                await self._catalog.revoke_token(chore.detail["token_id"])
            case ChoreKind.END_RUN:
                await self._end_run(chore.subject)
            case ChoreKind.TIDY_CHECKPOINTS:
                await self._tidy(chore.subject)
            case ChoreKind.FIRE_TRIGGER:
                await self._triggers.fire(chore.subject, chore.detail["event_id"])

    async def _end_run(self, job_id: str) -> None:
        job = await self._jobs.get(job_id)
        comment = f"end of training job {job_id}"
        token = await self._catalog.issue_token(job.submitted_by, _END_RUN_TOKEN, comment)
        try:
            await self._tracking.end_run(token.secret, job)
        finally:
            await self._catalog.revoke_token(token.token_id)

    async def _tidy(self, job_id: str) -> None:
        try:
            job = await self._jobs.get(job_id)
        except JobNotFound:
            return
        for attempt, step in superseded(job, await self._files.steps(job_id), self._keep):
            prefix = checkpoint_prefix(job_id, attempt, step)
            for file in await self._files.list(job_id, attempt, step):
                await self._objects.delete(f"{prefix}/{file.path}")
            await self._files.drop(job_id, attempt, step)


def superseded(job: Job, kept: Sequence[tuple[int, int]], keep: int) -> list[tuple[int, int]]:
    """Which checkpoints (attempt, step) nothing needs any more.

    The latest complete one stays always, `keep - 1` older ones while the job is not final, and what
    the running attempt may still be writing.
    """
    if job.checkpoint is None:
        return []
    saved = (job.checkpoint.attempt, job.checkpoint.step)
    if job.state.is_final:
        return [one for one in kept if one != saved]
    older = sorted((one for one in kept if one < saved), reverse=True)
    return older[keep - 1 :]
