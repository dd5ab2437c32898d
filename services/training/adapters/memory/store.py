"""What training keeps, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.training.domain.chore import Chore, ChoreKind
from services.training.domain.job import Job
from services.training.domain.trigger import FiringOutcome, Trigger, TriggerEvent
from services.training.errors import JobNotFound, StaleJob, TriggerExists, TriggerNotFound
from services.training.ports import CheckpointFile, JobQuery
from tessera_kit.bus.event import Event

__all__ = [
    "InMemoryCheckpointFiles",
    "InMemoryChores",
    "InMemoryFirings",
    "InMemoryJobs",
    "InMemoryTriggers",
    "Memory",
]


@dataclass(slots=True)
class Firing:
    """What became of one event for one trigger."""

    outcome: FiringOutcome | None = None
    job_id: str = ""
    message: str = ""


@dataclass(slots=True)
class Memory:
    """What the twins share, as tables of one database would be."""

    jobs: dict[str, Job] = field(default_factory=dict)
    job_requests: dict[tuple[str, str], str] = field(default_factory=dict)
    files: dict[tuple[str, int, int], dict[str, CheckpointFile]] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    trigger_requests: dict[tuple[str, str], str] = field(default_factory=dict)
    firings: dict[tuple[str, str], Firing] = field(default_factory=dict)
    chores: dict[str, Chore] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)
    """Every event that was told, in order."""


class InMemoryJobs:
    """Twin of `ports.Jobs`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def add(self, job: Job, request_id: str, tells: Sequence[Event]) -> Job:
        """Store a new job; an earlier one of the same request comes back instead."""
        known = await self.find_request(job.submitted_by, request_id) if request_id else None
        if known is not None:
            return known
        self._memory.jobs[job.job_id] = job
        if request_id:
            self._memory.job_requests[job.submitted_by, request_id] = job.job_id
        self._memory.told.extend(tells)
        return job

    async def find_request(self, principal: str, request_id: str) -> Job | None:
        """The job of an earlier `add` of this submitter with this request id."""
        job_id = self._memory.job_requests.get((principal, request_id))
        return None if job_id is None else self._memory.jobs[job_id]

    async def get(self, job_id: str) -> Job:
        """Read a job."""
        try:
            return self._memory.jobs[job_id]
        except KeyError:
            raise JobNotFound(f"there is no job {job_id!r}") from None

    async def page(self, query: JobQuery, before: str, limit: int) -> Sequence[Job]:
        """Jobs with ids below `before`, the newest first."""
        jobs = (self._memory.jobs[key] for key in sorted(self._memory.jobs, reverse=True))
        return [
            job
            for job in jobs
            if (not before or job.job_id < before)
            and (not query.name or job.spec.name == query.name)
            and (not query.states or job.state in query.states)
            and (not query.trigger_name or job.trigger_name == query.trigger_name)
        ][:limit]

    async def unfinished(self) -> Sequence[Job]:
        """Jobs that are not final, in order of submission."""
        jobs = (self._memory.jobs[key] for key in sorted(self._memory.jobs))
        return [job for job in jobs if not job.state.is_final]

    async def save(
        self, job: Job, tells: Sequence[Event] = (), chores: Sequence[Chore] = ()
    ) -> Job:
        """Store a change, if nobody stored one since it was read."""
        stored = self._memory.jobs.get(job.job_id)
        if stored is None or stored.revision != job.revision:
            raise StaleJob(f"job {job.job_id} was changed since it was read")
        raised = replace(job, revision=job.revision + 1)
        self._memory.jobs[job.job_id] = raised
        self._memory.told.extend(tells)
        for chore in chores:
            self._memory.chores.setdefault(chore.chore_id, chore)
        return raised


class InMemoryCheckpointFiles:
    """Twin of `ports.CheckpointFiles`."""

    def __init__(self, memory: Memory) -> None:
        self._files = memory.files

    async def put(self, job_id: str, attempt: int, step: int, file: CheckpointFile) -> None:
        """Note a stored file; one of the same path is replaced."""
        self._files.setdefault((job_id, attempt, step), {})[file.path] = file

    async def list(self, job_id: str, attempt: int, step: int) -> Sequence[CheckpointFile]:
        """The files of one checkpoint, by path."""
        files = self._files.get((job_id, attempt, step), {})
        return [files[path] for path in sorted(files)]

    async def steps(self, job_id: str) -> Sequence[tuple[int, int]]:
        """(attempt, step) of every checkpoint with files, in order."""
        return sorted((attempt, step) for job, attempt, step in self._files if job == job_id)

    async def drop(self, job_id: str, attempt: int, step: int) -> None:
        """Forget the files of one checkpoint."""
        self._files.pop((job_id, attempt, step), None)


class InMemoryTriggers:
    """Twin of `ports.Triggers`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def add(self, trigger: Trigger, request_id: str) -> Trigger:
        """Store a new trigger; an earlier one of the same request comes back instead."""
        request = (trigger.created_by, request_id)
        if request_id and request in self._memory.trigger_requests:
            return self._memory.triggers[self._memory.trigger_requests[request]]
        if trigger.name in self._memory.triggers:
            raise TriggerExists(f"there is a trigger {trigger.name!r} already")
        self._memory.triggers[trigger.name] = trigger
        if request_id:
            self._memory.trigger_requests[request] = trigger.name
        return trigger

    async def get(self, name: str) -> Trigger:
        """Read a trigger."""
        try:
            return self._memory.triggers[name]
        except KeyError:
            raise TriggerNotFound(f"there is no trigger {name!r}") from None

    async def page(self, after: str, limit: int) -> Sequence[Trigger]:
        """Triggers with names above `after`, by name."""
        names = [name for name in sorted(self._memory.triggers) if name > after]
        return [self._memory.triggers[name] for name in names[:limit]]

    async def delete(self, name: str) -> None:
        """Remove a trigger."""
        await self.get(name)
        del self._memory.triggers[name]
        requests = self._memory.trigger_requests
        for request in [request for request, kept in requests.items() if kept == name]:
            del requests[request]

    async def settle(
        self,
        name: str,
        event_id: str,
        outcome: FiringOutcome,
        at: datetime,
        job_id: str,
        message: str,
    ) -> None:
        """Record what became of an event; a submission becomes the trigger's last one."""
        if (name, event_id) in self._memory.firings:
            self._memory.firings[name, event_id] = Firing(outcome, job_id, message)
        trigger = self._memory.triggers.get(name)
        if outcome is FiringOutcome.SUBMITTED and trigger is not None:
            last = replace(trigger, last_job_id=job_id, last_submitted_at=at)
            self._memory.triggers[name] = last

    async def outcome(self, name: str, event_id: str) -> FiringOutcome | None:
        """What became of an event; None when it is open or unknown."""
        firing = self._memory.firings.get((name, event_id))
        return None if firing is None else firing.outcome


class InMemoryFirings:
    """Twin of `ports.Firings`; its transaction is the whole process."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def matching(self, event: TriggerEvent, subject: str, at: datetime) -> Sequence[Trigger]:
        """Triggers of this event and subject that existed at a time."""
        return [
            trigger
            for _, trigger in sorted(self._memory.triggers.items())
            if trigger.event is event and trigger.subject == subject and trigger.created_at <= at
        ]

    async def owe(self, trigger: Trigger, event_id: str, at: datetime) -> None:
        """Note that an event concerns a trigger and owe its firing."""
        if (trigger.name, event_id) in self._memory.firings:
            return
        self._memory.firings[trigger.name, event_id] = Firing()
        chore_id = f"fire:{trigger.name}:{event_id}"
        detail = {"event_id": event_id}
        due = trigger.created_at
        chore = Chore(chore_id, ChoreKind.FIRE_TRIGGER, trigger.name, due, detail)
        self._memory.chores[chore_id] = chore


class InMemoryChores:
    """Twin of `ports.Chores`."""

    def __init__(self, memory: Memory) -> None:
        self._chores = memory.chores

    async def due(self, now: datetime, limit: int) -> Sequence[Chore]:
        """Chores whose time has come, the longest due first."""
        due = [chore for chore in self._chores.values() if chore.due_at <= now]
        return sorted(due, key=lambda chore: (chore.due_at, chore.chore_id))[:limit]

    async def next_due(self) -> datetime | None:
        """When the next chore is due; None when none is owed."""
        return min((chore.due_at for chore in self._chores.values()), default=None)

    async def done(self, chore_id: str) -> None:
        """Forget a chore."""
        self._chores.pop(chore_id, None)

    async def postpone(self, chore_id: str, due_at: datetime) -> None:
        """Try a chore again later; counts the failure."""
        chore = self._chores.get(chore_id)
        if chore is not None:
            self._chores[chore_id] = replace(chore, due_at=due_at, tries=chore.tries + 1)
