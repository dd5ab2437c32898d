"""Puts the monitoring service together; the only module that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.monitoring.adapters.catalog import GrpcTableCatalog
from services.monitoring.adapters.clickhouse.analytics import ClickHouseAnalytics
from services.monitoring.adapters.faust_stream import FaustStream
from services.monitoring.adapters.sql.store import SqlStore
from services.monitoring.config import Config
from services.monitoring.consumers import ROWS_TOPIC, LabelConsumer, RowHandling
from services.monitoring.handlers.cases import UseCases, build_use_cases
from services.monitoring.handlers.labels import LabelRecomputer
from services.monitoring.handlers.stream import RowObserver
from services.monitoring.servicers import bindings
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.serving import App, BackgroundTask
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_migrate import migrate_clickhouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database

__all__ = ["build_app"]

_CLICKHOUSE_MIGRATIONS: Final = "services.monitoring.migrations.clickhouse"


@dataclass(frozen=True, slots=True)
class _Adapters:
    """What the service stands on, open."""

    database: Database
    producer: EventProducer
    authority: CatalogAuthority
    store: SqlStore
    analytics: ClickHouseAnalytics
    catalog: GrpcTableCatalog


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Migrate the databases, open what is needed, bind the server; close all on leaving."""
    await migrate(config.database.url, "monitoring")
    async with AsyncExitStack() as stack:
        adapters = await _open(config, stack)
        cases = build_use_cases(
            adapters.store, adapters.analytics, adapters.catalog, adapters.authority
        )
        server = build_server(config.rpc, bindings(cases), authenticator=adapters.authority)
        yield App((server,), _background(config, adapters, cases))


async def _open(config: Config, stack: AsyncExitStack) -> _Adapters:
    enter = stack.enter_async_context
    database = await enter(Database(config.database))
    clickhouse = await enter(ClickHouse(config.clickhouse))
    await migrate_clickhouse(clickhouse, config.clickhouse.database, _CLICKHOUSE_MIGRATIONS)
    producer = await enter(EventProducer(config.kafka))
    own = await enter(open_channel(config.targets.catalog, token=config.token, tls=config.tls))
    # Calls for others bring those others' tokens.
    bare = await enter(open_channel(config.targets.catalog, tls=config.tls))
    return _Adapters(
        database,
        producer,
        CatalogAuthority(own),
        SqlStore(database),
        ClickHouseAnalytics(clickhouse, config.clickhouse.database),
        GrpcTableCatalog(bare),
    )


def _background(config: Config, adapters: _Adapters, cases: UseCases) -> Sequence[BackgroundTask]:
    kafka, producer = config.kafka, adapters.producer
    stream = FaustStream(kafka, ROWS_TOPIC, config.data_dir)
    observer = RowObserver(adapters.store, adapters.analytics, stream, cases.computer)
    rows = RowHandling(observer.observe, dead_letters=producer)
    recomputer = LabelRecomputer(
        adapters.store,
        cases.computer,
        cases.labels.marked,
        quiet_seconds=config.label_quiet_seconds,
        longest_seconds=config.label_longest_seconds,
    )
    return (
        BackgroundTask("outbox", OutboxRelay(adapters.database, producer).run),
        BackgroundTask("rows", partial(stream.run, rows.handle)),
        BackgroundTask("labels", LabelConsumer(kafka, cases.labels, producer).run),
        BackgroundTask("label-recompute", recomputer.run),
        BackgroundTask("grants", GrantWatcher(adapters.authority, kafka).run),
        BackgroundTask("grants, asked", adapters.authority.follow),
    )
