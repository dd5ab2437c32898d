"""Puts the catalog together; the only place that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.catalog.adapters.clickhouse import ClickHouseTableEngine
from services.catalog.adapters.sql import SqlStore
from services.catalog.config import Config, Places
from services.catalog.consumer import GROUP, HANDLERS
from services.catalog.handlers.access_cache import AccessCache
from services.catalog.handlers.bootstrap import bootstrap
from services.catalog.handlers.context import Context
from services.catalog.handlers.decisions import Decisions
from services.catalog.handlers.external_tables import ExternalTables
from services.catalog.handlers.files import Files
from services.catalog.handlers.grants import Grants
from services.catalog.handlers.guard import Guard
from services.catalog.handlers.lineage import Lineage
from services.catalog.handlers.models import Aliases
from services.catalog.handlers.principals import Principals
from services.catalog.handlers.reconcile import Reconciler
from services.catalog.handlers.removal import Removal
from services.catalog.handlers.storage import Storage
from services.catalog.handlers.table_data import TableData
from services.catalog.handlers.tables import Tables
from services.catalog.handlers.tokens import Tokens
from services.catalog.handlers.tree import Tree
from services.catalog.handlers.versions import Versions
from services.catalog.ports import Store, TableEngine
from services.catalog.servicers.bindings import bindings
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.rpc.server import BackgroundTask, Binding, RpcServer, build_server
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.objects import ObjectStore
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["App", "UseCases", "build_app", "build_use_cases"]


@dataclass(frozen=True, slots=True)
class App:
    """The service, ready to be served."""

    server: RpcServer
    tasks: tuple[BackgroundTask, ...]


@dataclass(frozen=True, slots=True)
class UseCases:
    """The use cases with what they stand on."""

    bindings: tuple[Binding, ...]
    tokens: Tokens
    cache: AccessCache
    reconciler: Reconciler


def build_use_cases(
    store: Store, engine: TableEngine, objects: ObjectStore, places: Places, clock: Clock
) -> UseCases:
    """Put the use cases together over any adapters."""
    cache = AccessCache(store)
    context = Context(store, Guard(cache), clock)
    storage = Storage(store, engine, objects, places.database_prefix)
    tree, tokens = Tree(context), Tokens(context, cache)
    external = ExternalTables(context, engine, places.external_prefixes)
    removal, versions = Removal(context, storage), Versions(context, storage, objects)
    doors = bindings(
        tree=tree,
        tables=Tables(context, engine, external, places.database_prefix, storage.locks),
        removal=removal,
        versions=versions,
        aliases=Aliases(context),
        files=Files(context, objects),
        principals=Principals(context, cache),
        tokens=tokens,
        grants=Grants(context, cache),
        decisions=Decisions(context, cache),
        lineage=Lineage(context),
        table_data=TableData(context, engine),
    )
    return UseCases(doors, tokens, cache, Reconciler(context, storage))


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
        server = build_server(config.rpc, cases.bindings, authenticator=cases.tokens)
        yield App(server, tuple(tasks))
