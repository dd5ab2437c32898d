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
from services.monitoring.handlers.access import Access
from services.monitoring.handlers.compute import WindowComputer
from services.monitoring.handlers.labels import LabelIntake, LabelRecomputer
from services.monitoring.handlers.monitors import Monitors
from services.monitoring.handlers.refresh import Refresh
from services.monitoring.handlers.reports import Reports
from services.monitoring.handlers.stream import RowObserver
from services.monitoring.ports import Analytics, Store, TableCatalog
from services.monitoring.servicers import MonitoringServicer, UseCases
from tessera.monitoring.v1 import monitoring_service_pb2, monitoring_service_pb2_grpc
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import BackgroundTask, Binding, RpcServer, build_server
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_migrate import migrate_clickhouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database

__all__ = ["App", "Core", "binding", "build_app", "build_core"]

SERVICE_NAME: Final = monitoring_service_pb2.DESCRIPTOR.services_by_name[
    "MonitoringService"
].full_name
_CLICKHOUSE_MIGRATIONS: Final = "services.monitoring.migrations.clickhouse"


@dataclass(frozen=True, slots=True)
class App:
    """What runs: a bound server, and the work beside it."""

    server: RpcServer
    background: Sequence[BackgroundTask]


@dataclass(frozen=True, slots=True)
class Core:
    """The use cases over any adapters."""

    cases: UseCases
    computer: WindowComputer
    labels: LabelIntake


def build_core(
    store: Store,
    analytics: Analytics,
    catalog: TableCatalog,
    authority: Authority,
    clock: Clock | None = None,
) -> Core:
    """Return the use cases over any adapters; time is the system's when no clock is given."""
    clock = clock or SystemClock()
    access = Access(authority, store)
    computer = WindowComputer(store, analytics, access, clock)
    cases = UseCases(
        monitors=Monitors(store, analytics, catalog, access, computer, clock),
        refresh=Refresh(store, analytics, access, computer, clock),
        reports=Reports(store, analytics, access, computer.alerts),
    )
    return Core(cases, computer, LabelIntake(store, analytics))


def binding(cases: UseCases) -> Binding:
    """Return the gRPC service over use cases."""
    return Binding(
        monitoring_service_pb2_grpc.add_MonitoringServiceServicer_to_server,
        MonitoringServicer(cases),
        SERVICE_NAME,
    )


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Migrate the databases, open what is needed, bind the server; close all on leaving."""
    await migrate(config.database.url, "monitoring")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(config.database))
        clickhouse = await stack.enter_async_context(ClickHouse(config.clickhouse))
        await migrate_clickhouse(clickhouse, config.clickhouse.database, _CLICKHOUSE_MIGRATIONS)
        producer = await stack.enter_async_context(EventProducer(config.kafka))
        own = open_channel(config.targets.catalog, token=config.token, tls=config.tls)
        callers = open_channel(config.targets.catalog, tls=config.tls)
        authority = CatalogAuthority(await stack.enter_async_context(own))
        catalog = GrpcTableCatalog(await stack.enter_async_context(callers))
        store = SqlStore(database)
        analytics = ClickHouseAnalytics(clickhouse, config.clickhouse.database)
        core = build_core(store, analytics, catalog, authority)
        recomputer = LabelRecomputer(
            store,
            core.computer,
            core.labels.marked,
            quiet_seconds=config.label_quiet_seconds,
            longest_seconds=config.label_longest_seconds,
        )
        stream = FaustStream(config.kafka, ROWS_TOPIC, config.data_dir)
        rows = RowHandling(
            RowObserver(store, analytics, stream, core.computer).observe, dead_letters=producer
        )
        yield App(
            server=build_server(config.rpc, [binding(core.cases)], authenticator=authority),
            background=(
                BackgroundTask("outbox-relay", OutboxRelay(database, producer).run),
                BackgroundTask("rows", partial(stream.run, rows.handle)),
                BackgroundTask("labels", LabelConsumer(config.kafka, core.labels, producer).run),
                BackgroundTask("label-recompute", recomputer.run),
                BackgroundTask("grant-watcher", GrantWatcher(authority, config.kafka).run),
            ),
        )
