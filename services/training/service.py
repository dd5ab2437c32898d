"""Ties handlers to ports; knows no concrete adapter, so that tests wire twins in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from services.training.servicers.runtime import JobRuntimeServicer
from services.training.servicers.training import TrainingServicer
from tessera.training.v1 import training_service_pb2_grpc as rpc
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.rpc.server import Binding
from tessera_kit.rpc.serving import Server
from tessera_kit.store.objects import ObjectStore

__all__ = ["Outside", "PoliteServer", "Service", "Settings", "Store"]


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


class Service:
    """The use cases of one process.

    Args:
        store: What it keeps.
        outside: What it deals with.
        settings: How it behaves.
    """

    def __init__(self, store: Store, outside: Outside, settings: Settings) -> None:
        clock = outside.clock
        rights = Rights(outside.access)
        self.feed = Feed()
        self.changes = Changes(store.jobs, self.feed)
        self.jobs = JobHandlers(
            store.jobs,
            self.changes,
            self.feed,
            rights,
            clock,
            git=settings.git,
            gpus=len(settings.capacity.gpus),
        )
        self.logs = LogHandlers(store.jobs, outside.logs, self.feed, rights)
        self.triggers = TriggerHandlers(store.triggers, self.jobs, rights, clock)
        self.runtime = RuntimeHandlers(
            store.jobs,
            store.files,
            outside.objects,
            self.changes,
            rights,
            outside.catalog,
            clock,
            max_file_bytes=settings.checkpoint_file_bytes,
        )
        self.scheduler = self._scheduler(store, outside, settings)
        self.chores = ChoreRunner(
            chores=store.chores,
            jobs=store.jobs,
            files=store.files,
            objects=outside.objects,
            catalog=outside.catalog,
            tracking=outside.tracking,
            triggers=self.triggers,
            feed=self.feed,
            clock=clock,
            keep_checkpoints=settings.keep_checkpoints,
        )
        self._clock = clock
        self._preempt_seconds = settings.preempt_seconds

    def _scheduler(self, store: Store, outside: Outside, settings: Settings) -> Scheduler:
        conductor = AttemptConductor(
            jobs=store.jobs,
            changes=self.changes,
            feed=self.feed,
            sources=outside.sources,
            processes=outside.processes,
            catalog=outside.catalog,
            tracking=outside.tracking,
            clock=outside.clock,
            surroundings=Surroundings(settings.variables, settings.capacity.slots),
        )
        return Scheduler(
            store.jobs,
            self.changes,
            self.feed,
            conductor,
            outside.processes,
            settings.capacity,
            outside.clock,
        )

    def bindings(self) -> Sequence[Binding]:
        """The gRPC services."""
        return [
            Binding(
                rpc.add_TrainingServiceServicer_to_server,
                TrainingServicer(self.jobs, self.logs, self.triggers, self._clock),
                "tessera.training.v1.TrainingService",
            ),
            Binding(
                rpc.add_JobRuntimeServiceServicer_to_server,
                JobRuntimeServicer(self.runtime),
                "tessera.training.v1.JobRuntimeService",
            ),
        ]

    async def stop(self) -> None:
        """Stop jobs so that the next life resumes them, then let go of who follows them."""
        await self.scheduler.preempt(self._preempt_seconds)
        self.feed.close()


class PoliteServer:
    """A server that lets jobs save what they have while it still answers them.

    Args:
        server: What answers.
        service: Whose jobs are to be stopped first.
    """

    def __init__(self, server: Server, service: Service) -> None:
        self._server = server
        self._service = service

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._server.address

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop jobs, then drain and end."""
        await self._service.stop()
        await self._server.stop()
