"""Puts the catalog together; the only module that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.catalog.adapters.clickhouse import ClickHouseTableEngine
from services.catalog.adapters.sql import SqlStore
from services.catalog.config import Config
from services.catalog.consumers import GROUP, HANDLERS
from services.catalog.handlers.bootstrap import bootstrap
from services.catalog.handlers.cases import UseCases, build_use_cases
from services.catalog.servicers.bindings import bindings
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.serving import App, BackgroundTask
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["build_app"]


@dataclass(frozen=True, slots=True)
class _Adapters:
    """What the service stands on, open."""

    database: Database
    producer: EventProducer
    store: SqlStore
    engine: ClickHouseTableEngine
    objects: S3ObjectStore


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Migrate the database, open what is needed, bind the server; close everything on leaving."""
    await migrate(config.database.url, "catalog")
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        adapters = await _open(config, stack)
        cases = build_use_cases(
            adapters.store, adapters.engine, adapters.objects, config.places, clock
        )
        await bootstrap(adapters.store, config.tokens, clock)
        await cases.reconciler.at_start()
        server = build_server(config.rpc, bindings(cases), authenticator=cases.tokens)
        yield App((server,), _background(config, adapters, cases))


async def _open(config: Config, stack: AsyncExitStack) -> _Adapters:
    enter = stack.enter_async_context
    database = await enter(Database(config.database))
    clickhouse = await enter(ClickHouse(config.engine_clickhouse()))
    objects = await enter(S3ObjectStore(config.s3))
    producer = await enter(EventProducer(config.kafka))
    engine = ClickHouseTableEngine(clickhouse, config.engine_settings())
    return _Adapters(database, producer, SqlStore(database), engine, objects)


def _background(config: Config, adapters: _Adapters, cases: UseCases) -> Sequence[BackgroundTask]:
    lineage = ConsumerRunner(
        config.kafka,
        group=GROUP,
        handlers=HANDLERS,
        unit_of_work=lambda: UnitOfWork(adapters.database),
        dead_letters=adapters.producer,
    )
    tasks = [
        BackgroundTask("outbox", OutboxRelay(adapters.database, adapters.producer).run),
        BackgroundTask("lineage", lineage.run),
        BackgroundTask("reconciler", cases.reconciler.run),
    ]
    if not adapters.store.single_writer:
        tasks.append(BackgroundTask("access-cache", cases.cache.follow))
    return tasks
