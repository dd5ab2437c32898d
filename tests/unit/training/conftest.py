"""A whole training service on twins in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from services.training.adapters.memory import (
    InMemoryCatalog,
    InMemoryCheckpointFiles,
    InMemoryChores,
    InMemoryJobs,
    InMemoryLogs,
    InMemoryProcesses,
    InMemorySources,
    InMemoryTracking,
    InMemoryTriggers,
    Memory,
)
from services.training.domain.checks import GitRules
from services.training.domain.job import Job, JobSpec, JobState, PackageSource
from services.training.domain.queue import Capacity
from services.training.handlers.cases import (
    Outside,
    Settings,
    Store,
    UseCases,
    build_use_cases,
)
from services.training.ports import AttemptKey
from tessera.catalog.v1 import securable_pb2 as securable
from tessera_kit.clock import ManualClock
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tests.helpers import eventually

ANN = Principal("ann")
BOB = Principal("bob")
ADMIN = Principal("root", is_admin=True)


@dataclass
class World:
    """What lies outside of the service and outlives it."""

    memory: Memory = field(default_factory=Memory)
    authority: InMemoryAuthority = field(default_factory=InMemoryAuthority)
    catalog: InMemoryCatalog = field(default_factory=InMemoryCatalog)
    tracking: InMemoryTracking = field(default_factory=InMemoryTracking)
    objects: InMemoryObjectStore = field(default_factory=InMemoryObjectStore)
    processes: InMemoryProcesses = field(default_factory=InMemoryProcesses)
    logs: InMemoryLogs = field(default_factory=InMemoryLogs)
    clock: ManualClock = field(default_factory=ManualClock)
    slots: int = 2
    gpus: tuple[int, ...] = ()
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    services: list[UseCases] = field(default_factory=list)

    @property
    def service(self) -> UseCases:
        return self.services[-1]

    def start(self) -> UseCases:
        """Begin a life of the service."""
        memory = self.memory
        service = build_use_cases(
            Store(
                InMemoryJobs(memory),
                InMemoryCheckpointFiles(memory),
                InMemoryTriggers(memory),
                InMemoryChores(memory),
            ),
            Outside(
                self.authority,
                self.catalog,
                self.tracking,
                self.objects,
                InMemorySources(),
                self.processes,
                self.logs,
                self.clock,
            ),
            Settings(
                Capacity(self.slots, self.gpus),
                GitRules(frozenset({"example.org"})),
                {"TESSERA_CATALOG_TARGET": "127.0.0.1:1"},
                preempt_seconds=5.0,
            ),
        )
        self.services.append(service)
        self.tasks.append(asyncio.create_task(service.scheduler.run()))
        self.tasks.append(asyncio.create_task(service.chores.run()))
        return service

    async def crash(self) -> None:
        """End the service as kill -9 would: nothing is told to anybody."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    def job(self, job_id: str) -> Job:
        return self.memory.jobs[job_id]

    async def reaches(self, job: Job, state: JobState) -> Job:
        """Wait until a job is in a state."""
        await eventually(lambda: self.job(job.job_id).state is state)
        return self.job(job.job_id)

    async def runs(self, job: Job, number: int = 1) -> AttemptKey:
        """Wait until an attempt's processes run."""
        key = AttemptKey(job.job_id, number)
        await eventually(
            lambda: (
                self.job(job.job_id).state is JobState.RUNNING
                and len(self.job(job.job_id).attempts) == number
            )
        )
        return key

    def pass_time(self, seconds: float) -> datetime:
        """Move the clock and let who sleeps look at it."""
        self.clock.advance(seconds)
        self.service.feed.moved.set()
        self.service.feed.owed.set()
        return self.clock.now()

    def told(self, kind: type) -> list[object]:
        """Events of a kind, in order."""
        return [event.data for event in self.memory.told if isinstance(event.data, kind)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.authority.grant(
        "ann",
        [
            securable.PRIVILEGE_CREATE_JOB,
            securable.PRIVILEGE_CREATE_EXPERIMENT,
        ],
        securable.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    world.start()
    yield world
    await world.crash()


def spec(**changes: object) -> JobSpec:
    values: dict[str, object] = {
        "name": "job",
        "source": PackageSource("module"),
        "timeout": timedelta(hours=1),
    }
    return JobSpec(**{**values, **changes})  # type: ignore[arg-type]
