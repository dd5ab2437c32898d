"""Puts the tracking service together; the only module that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from services.tracking.adapters.catalog import CatalogLineage, CatalogRegistry
from services.tracking.adapters.clickhouse.points import ClickHousePoints
from services.tracking.adapters.clickhouse.spans import ClickHouseSpans
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.adapters.secret_box import FernetBox
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.adapters.webhook_http import HttpHookSender
from services.tracking.config import Config
from services.tracking.consumers import MetricConsumer, RegistryConsumer
from services.tracking.handlers.access import Access
from services.tracking.handlers.cases import Outside, Places, UseCases, build_use_cases
from services.tracking.handlers.deliveries import Deliveries
from services.tracking.handlers.purger import Purger
from services.tracking.handlers.registry_news import RegistryNews
from services.tracking.handlers.upload_sweep import UploadSweep
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.routes import mlflow_routes
from services.tracking.ports.webhooks import Hooks
from services.tracking.run_pages import page_routes
from services.tracking.servicers import bindings
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.serving import App, BackgroundTask, Server
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sole_access import sole_access
from tessera_kit.store.sql import Database

__all__ = ["build_app"]


@dataclass(frozen=True, slots=True)
class _Adapters:
    """What the service stands on, open."""

    database: Database
    producer: EventProducer
    authority: CatalogAuthority
    store: SqlStore
    files: ObjectArtifacts
    spans: ClickHouseSpans
    registry: CatalogRegistry
    lineage: CatalogLineage
    hooks: Hooks


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Migrate the database, open what is needed, bind the servers; close everything on leaving."""
    await migrate(config.database.url, "tracking")
    async with AsyncExitStack() as stack:
        adapters = await _open(config, stack)
        cases = build_use_cases(
            Outside(
                adapters.store,
                adapters.files,
                adapters.spans,
                adapters.authority,
                adapters.registry,
                adapters.hooks,
            ),
            Places(f"s3://{config.s3.bucket}/{ObjectArtifacts.ROOT}", config.default_schema),
        )
        await cases.experiments.ensure_default()
        stack.push_async_callback(cases.log.close)
        stack.push_async_callback(cases.runs.close)
        if cases.registry is not None:
            stack.push_async_callback(cases.registry.files.close)
        yield App(_servers(config, adapters, cases), _background(config, adapters, cases))


async def _open(config: Config, stack: AsyncExitStack) -> _Adapters:
    enter = stack.enter_async_context
    database = await enter(Database(config.database))
    clickhouse = await enter(ClickHouse(config.clickhouse))
    objects = await enter(S3ObjectStore(config.s3))
    producer = await enter(EventProducer(config.kafka))
    own = await enter(open_channel(config.targets.catalog, token=config.token, tls=config.tls))
    # Calls for others bring those others' tokens.
    bare = await enter(open_channel(config.targets.catalog, tls=config.tls))
    sender = await enter(HttpHookSender(config.webhook_urls))
    return _Adapters(
        database,
        producer,
        CatalogAuthority(own),
        SqlStore(database, ClickHousePoints(clickhouse)),
        ObjectArtifacts(objects),
        await enter(ClickHouseSpans(clickhouse)),
        CatalogRegistry(bare),
        CatalogLineage(bare),
        Hooks(sender, FernetBox(config.webhook_key), config.webhook_urls),
    )


def _servers(config: Config, adapters: _Adapters, cases: UseCases) -> Sequence[Server]:
    routes = [
        *mlflow_routes(cases, uploads_in_parts=bool(config.s3.public_endpoint)),
        *page_routes(cases, adapters.lineage),
    ]
    authority = adapters.authority
    return (
        build_server(config.rpc, bindings(cases), authenticator=authority),
        build_http_server(config.http, routes, authenticator=authority, render=mlflow_error),
    )


def _background(config: Config, adapters: _Adapters, cases: UseCases) -> Sequence[BackgroundTask]:
    clock, kafka, producer = SystemClock(), config.kafka, adapters.producer
    access = Access(adapters.authority, adapters.store)
    news = RegistryNews(
        Webhooks(adapters.store, access, adapters.hooks, clock),
        partial(adapters.registry.get_model, config.token.reveal()),
        default_schema=config.default_schema,
    )
    deliveries = Deliveries(adapters.store, adapters.hooks, clock)
    sweep = UploadSweep(adapters.files, clock, config.upload_age)
    outside = (adapters.store, adapters.spans, adapters.files, access)
    purger = Purger(*outside, cases.retention, clock, age=config.retention)

    async def purge() -> None:
        # Two would remove the same things, each of them twice.
        async with sole_access(adapters.database, "purger"):
            await purger.run()

    return (
        BackgroundTask("outbox", OutboxRelay(adapters.database, producer).run),
        BackgroundTask("points", adapters.store.carrier.run),
        BackgroundTask("webhooks", deliveries.run),
        BackgroundTask("uploads", sweep.run),
        BackgroundTask("purger", purge),
        BackgroundTask("registry", RegistryConsumer(kafka, news, producer).run),
        BackgroundTask("metrics", MetricConsumer(kafka, cases.log, producer).run),
        BackgroundTask("default experiment", cases.experiments.register_default),
        BackgroundTask("grants", GrantWatcher(adapters.authority, kafka).run),
        BackgroundTask("grants, asked", adapters.authority.follow),
    )
