"""Puts the catalog together; the only place that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.catalog.adapters.clickhouse import ClickHouseTableEngine
from services.catalog.adapters.sql import SqlStore
from services.catalog.config import Config
from services.catalog.consumers import GROUP, HANDLERS
from services.catalog.handlers.bootstrap import bootstrap
from services.catalog.handlers.cases import build_use_cases
from services.catalog.servicers.bindings import bindings
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.server import BackgroundTask, RpcServer, build_server
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["App", "build_app"]


@dataclass(frozen=True, slots=True)
class App:
    """The service, ready to be served."""

    server: RpcServer
    tasks: tuple[BackgroundTask, ...]


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Open what the service stands on, make what must be there, and put it together."""
    await migrate(config.database.url, "catalog")
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(config.database))
        clickhouse = await stack.enter_async_context(ClickHouse(config.engine_clickhouse()))
        objects = await stack.enter_async_context(S3ObjectStore(config.s3))
        producer = await stack.enter_async_context(EventProducer(config.kafka))
        store = SqlStore(database)
        engine = ClickHouseTableEngine(clickhouse, config.engine_settings())
        cases = build_use_cases(store, engine, objects, config.places, clock)
        await bootstrap(store, config.tokens, clock)
        await cases.reconciler.at_start()
        consumer = ConsumerRunner(
            config.kafka,
            group=GROUP,
            handlers=HANDLERS,
            unit_of_work=lambda: UnitOfWork(database),
            dead_letters=producer,
        )
        tasks = [
            BackgroundTask("outbox", OutboxRelay(database, producer).run),
            BackgroundTask("lineage", consumer.run),
            BackgroundTask("reconciler", cases.reconciler.run),
        ]
        if not store.single_writer:
            tasks.append(BackgroundTask("access-cache", cases.cache.follow))
        server = build_server(config.rpc, bindings(cases), authenticator=cases.tokens)
        yield App(server, tuple(tasks))
