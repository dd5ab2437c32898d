"""Puts the training service together; the only module that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.training import consumers
from services.training.adapters.catalog import GrpcCatalog
from services.training.adapters.git import Git
from services.training.adapters.logs import FileLogs
from services.training.adapters.processes import LocalProcesses
from services.training.adapters.sources import LocalSources
from services.training.adapters.sql import (
    FiringUnitOfWork,
    SqlCheckpointFiles,
    SqlChores,
    SqlFirings,
    SqlJobs,
    SqlTriggers,
)
from services.training.adapters.tracking import GrpcTracking
from services.training.config import Config, JobConfig
from services.training.domain.checks import GitRules
from services.training.domain.queue import Capacity
from services.training.handlers.cases import Outside, Settings, Store, UseCases, build_use_cases
from services.training.servicers.bindings import bindings
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import RpcServer, build_server
from tessera_kit.rpc.serving import App, BackgroundTask
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sole_access import sole_access
from tessera_kit.store.sql import Database

__all__ = ["build_app"]

_PREEMPT_MARGIN_SECONDS = 3.0
"""What jobs that are stopped have beyond their grace, to be seen as ended."""


@dataclass(frozen=True, slots=True)
class _Adapters:
    """What the service stands on, open."""

    database: Database
    producer: EventProducer
    authority: CatalogAuthority
    catalog: GrpcCatalog
    tracking: GrpcTracking
    objects: S3ObjectStore


class _PoliteServer:
    """A server that lets jobs save what they have while it still answers them."""

    def __init__(self, server: RpcServer, cases: UseCases) -> None:
        self.address = server.address
        self.start = server.start
        self._server = server
        self._cases = cases

    async def stop(self) -> None:
        """Stop jobs, then drain and end."""
        await self._cases.stop()
        await self._server.stop()


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Migrate the database, open what is needed, bind the server; close everything on leaving."""
    await migrate(config.database.url, "training")
    async with AsyncExitStack() as stack:
        adapters = await _open(config, stack)
        variables = config.job_variables()
        cases = build_use_cases(
            _store(adapters.database),
            _outside(config.jobs, adapters),
            _settings(config.jobs, variables),
        )
        server = build_server(config.rpc, bindings(cases), authenticator=adapters.authority)
        variables.setdefault("TESSERA_TRAINING_TARGET", server.address)
        yield App((_PoliteServer(server, cases),), _background(config, adapters, cases))


async def _open(config: Config, stack: AsyncExitStack) -> _Adapters:
    enter = stack.enter_async_context
    database = await enter(Database(config.database))
    producer = await enter(EventProducer(config.kafka))
    objects = await enter(S3ObjectStore(config.s3))
    catalog = await enter(open_channel(config.targets.catalog, token=config.token, tls=config.tls))
    tracking = await enter(open_channel(config.targets.tracking, tls=config.tls))
    return _Adapters(
        database,
        producer,
        CatalogAuthority(catalog),
        GrpcCatalog(catalog),
        GrpcTracking(tracking),
        objects,
    )


def _store(database: Database) -> Store:
    return Store(
        SqlJobs(database), SqlCheckpointFiles(database), SqlTriggers(database), SqlChores(database)
    )


def _outside(jobs: JobConfig, adapters: _Adapters) -> Outside:
    return Outside(
        adapters.authority,
        adapters.catalog,
        adapters.tracking,
        adapters.objects,
        LocalSources(jobs.folder, Git(_git_rules(jobs))),
        LocalProcesses(
            jobs.folder,
            grace_seconds=jobs.grace_seconds,
            log_limit_bytes=jobs.log_limit_bytes,
            log_days=jobs.log_days,
            nice=jobs.nice,
        ),
        FileLogs(jobs.folder),
    )


def _settings(jobs: JobConfig, variables: dict[str, str]) -> Settings:
    return Settings(
        Capacity(jobs.slots, tuple(range(jobs.gpus))),
        _git_rules(jobs),
        variables,
        jobs.keep_checkpoints,
        jobs.checkpoint_file_bytes,
        preempt_seconds=jobs.grace_seconds + _PREEMPT_MARGIN_SECONDS,
    )


def _git_rules(jobs: JobConfig) -> GitRules:
    return GitRules(jobs.git_hosts, jobs.git_file_root)


def _background(config: Config, adapters: _Adapters, cases: UseCases) -> Sequence[BackgroundTask]:
    database = adapters.database
    triggers = ConsumerRunner(
        config.kafka,
        group=consumers.GROUP,
        handlers=consumers.handlers(lambda uow: SqlFirings(uow.session)),
        unit_of_work=lambda: FiringUnitOfWork(database, cases.feed.owed),
        dead_letters=adapters.producer,
    )

    async def schedule() -> None:
        # Two services over one database would run every job twice.
        async with sole_access(database, "scheduler"):
            await cases.scheduler.run()

    return (
        BackgroundTask("scheduler", schedule),
        BackgroundTask("chores", cases.chores.run),
        BackgroundTask("outbox", OutboxRelay(database, adapters.producer).run),
        BackgroundTask("triggers", triggers.run),
        BackgroundTask("grants", GrantWatcher(adapters.authority, config.kafka).run),
        BackgroundTask("grants, asked", adapters.authority.follow),
    )
