"""All use cases, put together over whatever implements the ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.training.domain.checks import GitRules
from services.training.domain.queue import Capacity
from services.training.handlers.attempts import AttemptConductor, Surroundings
from services.training.handlers.changes import Changes, Feed
from services.training.handlers.chores import ChoreRunner
from services.training.handlers.jobs import Access, JobHandlers, Rights
from services.training.handlers.logs import LogHandlers
from services.training.handlers.runtime import RuntimeHandlers
from services.training.handlers.scheduler import Scheduler
from services.training.handlers.triggers import TriggerHandlers
from services.training.ports import (
    Catalog,
    CheckpointFiles,
    Chores,
    Jobs,
    Logs,
    Processes,
    Sources,
    Tracking,
    Triggers,
)
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.store.objects import ObjectStore

__all__ = ["Outside", "Settings", "Store", "UseCases", "build_use_cases"]


@dataclass(frozen=True, slots=True)
class Store:
    """What the service keeps."""

    jobs: Jobs
    files: CheckpointFiles
    triggers: Triggers
    chores: Chores


@dataclass(frozen=True, slots=True)
class Outside:
    """What the service deals with."""

    access: Access
    catalog: Catalog
    tracking: Tracking
    objects: ObjectStore
    sources: Sources
    processes: Processes
    logs: Logs
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service behaves."""

    capacity: Capacity
    git: GitRules = field(default_factory=GitRules)
    variables: Mapping[str, str] = field(default_factory=dict)
    """TESSERA_* variables of every job."""
    keep_checkpoints: int = 2
    checkpoint_file_bytes: int = 1 << 36
    preempt_seconds: float = 20.0
    """How long stopping waits for jobs to end."""


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service can do."""

    jobs: JobHandlers
    logs: LogHandlers
    triggers: TriggerHandlers
    runtime: RuntimeHandlers
    scheduler: Scheduler
    chores: ChoreRunner
    feed: Feed
    clock: Clock
    preempt_seconds: float
    """How long `stop` waits for jobs to end."""

    async def stop(self) -> None:
        """Stop jobs so that the next life resumes them, then let go of who follows them."""
        await self.scheduler.preempt(self.preempt_seconds)
        self.feed.close()


def build_use_cases(store: Store, outside: Outside, settings: Settings) -> UseCases:
    """Put the use cases together."""
    clock, capacity = outside.clock, settings.capacity
    rights = Rights(outside.access)
    feed = Feed()
    changes = Changes(store.jobs, feed)
    conductor = _conductor(store, outside, settings, changes, feed)
    jobs = JobHandlers(
        store.jobs, changes, feed, rights, clock, git=settings.git, gpus=len(capacity.gpus)
    )
    triggers = TriggerHandlers(store.triggers, jobs, rights, clock)
    return UseCases(
        jobs=jobs,
        logs=LogHandlers(store.jobs, outside.logs, feed, rights),
        triggers=triggers,
        runtime=RuntimeHandlers(
            store.jobs,
            store.files,
            outside.objects,
            changes,
            rights,
            outside.catalog,
            clock,
            max_file_bytes=settings.checkpoint_file_bytes,
        ),
        scheduler=Scheduler(
            store.jobs, changes, feed, conductor, outside.processes, capacity, clock
        ),
        chores=_chores(store, outside, settings, triggers, feed),
        feed=feed,
        clock=clock,
        preempt_seconds=settings.preempt_seconds,
    )


def _conductor(
    store: Store, outside: Outside, settings: Settings, changes: Changes, feed: Feed
) -> AttemptConductor:
    return AttemptConductor(
        jobs=store.jobs,
        changes=changes,
        feed=feed,
        sources=outside.sources,
        processes=outside.processes,
        catalog=outside.catalog,
        tracking=outside.tracking,
        clock=outside.clock,
        surroundings=Surroundings(settings.variables, settings.capacity.slots),
    )


def _chores(
    store: Store, outside: Outside, settings: Settings, triggers: TriggerHandlers, feed: Feed
) -> ChoreRunner:
    return ChoreRunner(
        chores=store.chores,
        jobs=store.jobs,
        files=store.files,
        objects=outside.objects,
        catalog=outside.catalog,
        tracking=outside.tracking,
        triggers=triggers,
        feed=feed,
        clock=outside.clock,
        keep_checkpoints=settings.keep_checkpoints,
    )
