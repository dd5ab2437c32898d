"""The one way in which a stored job changes, and the feed that wakes who watches it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator

from services.training.convert.events import events_of
from services.training.domain.chore import chores_of
from services.training.domain.job import Job
from services.training.domain.life import Happening, apply
from services.training.errors import StaleJob
from services.training.ports import Jobs
from tessera_kit.errors import Unavailable
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["Changes", "Feed"]


class Feed:
    """Wakes waiting tasks of this process when a job changes; carries no data, so none is lost."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.moved = asyncio.Event()
        """Set when any job comes to be or gets another state; who waits for it clears it."""
        self.owed = asyncio.Event()
        """Set when a chore was stored; who waits for it clears it."""
        self._closed = False

    def close(self) -> None:
        """End every `changes`, so that calls that follow a job do not hold up the service's end."""
        self._closed = True
        for job_id in tuple(self._waiting):
            self.tell(job_id)

    def tell(self, job_id: str) -> None:
        """Wake everybody who watches the job."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    async def changes(self, job_id: str) -> AsyncGenerator[None]:
        """Yield at once and after each change; changes that come too fast fall together.

        Raises:
            Unavailable: The service stops.
        """
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            while True:
                if self._closed:
                    raise Unavailable("the service stops; follow the job again when it is back")
                event.clear()
                yield
                await event.wait()
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]


class Changes:
    """Applies what happened to stored jobs, compare-and-set, with events and chores."""

    def __init__(self, jobs: Jobs, feed: Feed) -> None:
        self._jobs = jobs
        self._feed = feed

    async def apply(self, job_id: str, happening: Happening) -> Job:
        """Store what becomes of a job; what does not apply changes and tells nothing.

        Raises:
            JobNotFound: There is no such job.
        """
        while True:
            before = await self._jobs.get(job_id)
            after = apply(before, happening)
            if after is before:
                return before
            chores = tuple(chores_of(before, after))
            try:
                stored = await self._jobs.save(after, tuple(events_of(before, after)), chores)
            except StaleJob:
                # The store refused because another change came first, so this one is thought over
                # again; each refusal is somebody else's progress.
                continue
            self._feed.tell(job_id)
            if after.state is not before.state:
                self._feed.moved.set()
                if after.state.is_final:
                    counter(names.TRAINING_JOBS).labels(after.state.value).inc()
            if chores:
                self._feed.owed.set()
            return stored
