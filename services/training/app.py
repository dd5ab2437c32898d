"""The composition root: the only place that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from services.training.config import Config
from services.training.domain.checks import GitRules
from services.training.domain.queue import Capacity
from services.training.service import Outside, PoliteServer, Service, Settings, Store
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.serving import BackgroundTask
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sole_access import sole_access
from tessera_kit.store.sql import Database

__all__ = ["App", "build_app"]


@dataclass(frozen=True, slots=True)
class App:
    """A built service."""

    server: PoliteServer
    background: list[BackgroundTask]


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Build the service; everything that it opens is closed with the block."""
    await migrate(config.database.url, "training")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        database = await enter(Database(config.database))
        producer = await enter(EventProducer(config.kafka))
        objects = await enter(S3ObjectStore(config.s3))
        own = {"token": config.token, "tls": config.tls}
        catalog = await enter(open_channel(config.targets.catalog, **own))  # type: ignore[arg-type]
        tracking = await enter(open_channel(config.targets.tracking, tls=config.tls))
        authority = CatalogAuthority(catalog)
        git = GitRules(config.jobs.git_hosts, config.jobs.git_file_root)
        variables = config.job_variables()
        service = Service(
            Store(
                SqlJobs(database),
                SqlCheckpointFiles(database),
                SqlTriggers(database),
                SqlChores(database),
            ),
            Outside(
                authority,
                GrpcCatalog(catalog),
                GrpcTracking(tracking),
                objects,
                LocalSources(config.jobs.folder, Git(git)),
                LocalProcesses(
                    config.jobs.folder,
                    grace_seconds=config.jobs.grace_seconds,
                    log_limit_bytes=config.jobs.log_limit_bytes,
                    log_days=config.jobs.log_days,
                    nice=config.jobs.nice,
                ),
                FileLogs(config.jobs.folder),
            ),
            Settings(
                Capacity(config.jobs.slots, tuple(range(config.jobs.gpus))),
                git,
                variables,
                config.jobs.keep_checkpoints,
                config.jobs.checkpoint_file_bytes,
                preempt_seconds=config.jobs.grace_seconds + 3.0,
            ),
        )
        server = build_server(config.rpc, service.bindings(), authenticator=authority)
        variables.setdefault("TESSERA_TRAINING_TARGET", server.address)
        triggers = ConsumerRunner(
            config.kafka,
            group=consumers.GROUP,
            handlers=consumers.handlers(lambda uow: SqlFirings(uow.session)),
            unit_of_work=lambda: FiringUnitOfWork(database, service.feed.owed),
            dead_letters=producer,
        )

        async def schedule() -> None:
            # Two services over one database would run every job twice.
            async with sole_access(database, "scheduler"):
                await service.scheduler.run()

        yield App(
            PoliteServer(server, service),
            [
                BackgroundTask("scheduler", schedule),
                BackgroundTask("chores", service.chores.run),
                BackgroundTask("outbox", OutboxRelay(database, producer).run),
                BackgroundTask("triggers", triggers.run),
                BackgroundTask("grants", GrantWatcher(authority, config.kafka).run),
            ],
        )
