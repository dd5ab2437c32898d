"""The composition root: the only place that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.inference.adapters.acting import ActingTokens
from services.inference.adapters.bundles import FileBundles
from services.inference.adapters.catalog import GrpcCatalog
from services.inference.adapters.clickhouse import ClickHousePayloads
from services.inference.adapters.local_process import LocalRuntimeProcess
from services.inference.adapters.origins import GrpcLineage, GrpcRuns
from services.inference.adapters.secret_files import FileSecrets
from services.inference.adapters.sql import SqlEndpoints
from services.inference.adapters.sql_budgets import SqlBudgets
from services.inference.adapters.sql_replacements import SqlReplacements
from services.inference.adapters.triton_models import TritonModels
from services.inference.adapters.triton_wire import TritonWire
from services.inference.adapters.wire.door import WireDoor
from services.inference.capture.bodies import LargeBodies
from services.inference.capture.reader import SpoolReader
from services.inference.capture.shipper import SpoolShipper
from services.inference.capture.spool import Spool
from services.inference.config import Config, ShipperConfig, SinkConfig
from services.inference.consumers import ALERTS_GROUP, alert_handlers, payload_consumer
from services.inference.service import Outside, build_service
from services.inference.sink.writer import PayloadSink
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.serving import BackgroundTask, Server
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sql import Database
from tessera_kit.telemetry import names
from tessera_kit.telemetry.setup import active_telemetry

__all__ = ["App", "build_app", "build_shipper", "build_sink"]

_DRAIN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class App:
    """What a process runs."""

    servers: Sequence[Server]
    """The control plane's door and the gateway's two; none in the others."""
    background: Sequence[BackgroundTask]
    """The work beside them."""


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """The service's process: control plane and gateway."""
    async with AsyncExitStack() as stack:
        await migrate(config.database.url, "inference")
        database = await stack.enter_async_context(Database(config.database))
        producer = await stack.enter_async_context(
            EventProducer(config.kafka, client_id="inference")
        )
        own = await stack.enter_async_context(
            open_channel(config.targets.catalog, token=config.token, tls=config.tls)
        )
        plain = await stack.enter_async_context(
            open_channel(config.targets.catalog, tls=config.tls)
        )
        clickhouse = await stack.enter_async_context(ClickHouse(config.clickhouse))
        objects = await stack.enter_async_context(S3ObjectStore(config.s3))
        spool = Spool(
            config.spool.directory,
            segment_bytes=config.spool.segment_bytes,
            max_bytes=config.spool.max_bytes,
        )
        spool.open()
        stack.callback(spool.close)
        pending = active_telemetry().metrics.gauge(names.SPOOL_PENDING)
        pending.set_function(spool.pending_bytes)
        models = TritonModels(config.triton.grpc_target)
        stack.push_async_callback(models.close)
        runtime = TritonWire(
            config.triton.grpc_target, max_message_bytes=config.gateway_rpc.max_message_bytes
        )
        stack.push_async_callback(runtime.close)
        tracking = None
        if config.targets.tracking:
            tracking = await stack.enter_async_context(
                open_channel(config.targets.tracking, tls=config.tls)
            )
        authority, acting = CatalogAuthority(own), ActingTokens(own)
        catalog = GrpcCatalog(plain, acting, largest_file=config.largest_model_file)
        endpoints = SqlEndpoints(database)
        service = build_service(
            config,
            Outside(
                endpoints=endpoints,
                models=catalog,
                tables=catalog,
                places=endpoints,
                reader=ClickHousePayloads(clickhouse),
                lineage=GrpcLineage(plain, acting),
                runs=GrpcRuns(tracking, acting),
                budgets=SqlBudgets(database),
                replacements=SqlReplacements(database),
                process=LocalRuntimeProcess(config.triton.grpc_target),
                runtime=runtime,
                runtime_models=models,
                bundles=FileBundles(config.models_directory),
                secrets=FileSecrets(config.secrets_directory),
                capture=spool,
                objects=objects,
                authority=authority,
                clock=SystemClock(),
                open_door=partial(WireDoor, metrics=active_telemetry().metrics),
            ),
        )
        alerts = ConsumerRunner(
            config.kafka,
            group=ALERTS_GROUP,
            handlers=alert_handlers(service.canaries),
            unit_of_work=None,
            dead_letters=producer,
        )
        await service.deployer.start()
        yield App(
            servers=(service.control, service.gateway, service.gateway_http),
            background=(
                *service.background,
                BackgroundTask("outbox", OutboxRelay(database, producer).run),
                BackgroundTask("alerts", alerts.run),
                BackgroundTask("grants", GrantWatcher(authority, config.kafka).run),
                BackgroundTask("grants, asked", authority.follow),
            ),
        )


@asynccontextmanager
async def build_shipper(config: ShipperConfig) -> AsyncIterator[App]:
    """The shipper's process: what the gateway beside it appends to its spool goes to the bus."""
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(
            EventProducer(config.kafka, client_id="inference-shipper")
        )
        objects = await stack.enter_async_context(S3ObjectStore(config.s3))
        reader = SpoolReader(config.spool_directory)
        reader.open()
        stack.callback(reader.close)
        shipper = SpoolShipper(
            reader,
            LargeBodies(objects, config.largest_logged_body),
            producer,
            active_telemetry().metrics,
            SystemClock(),
        )
        stack.push_async_callback(shipper.drain, _DRAIN_SECONDS)
        yield App(servers=(), background=(BackgroundTask("shipper", shipper.run),))


@asynccontextmanager
async def build_sink(config: SinkConfig) -> AsyncIterator[App]:
    """The sink's process: payload records become rows of inference tables."""
    async with AsyncExitStack() as stack:
        await migrate(config.database.url, "inference")
        database = await stack.enter_async_context(Database(config.database))
        producer = await stack.enter_async_context(
            EventProducer(config.kafka, client_id="inference-sink")
        )
        clickhouse = await stack.enter_async_context(ClickHouse(config.clickhouse))
        continuity = Continuity(longest_silence=config.kafka.session_seconds / 2)
        sink = PayloadSink(
            SqlEndpoints(database),
            ClickHousePayloads(clickhouse),
            producer,
            active_telemetry().metrics,
            continuity,
        )
        consumer = payload_consumer(
            config.kafka,
            sink,
            producer,
            continuity,
            max_records=config.max_rows,
            max_wait=config.max_wait_seconds,
        )
        yield App(servers=(), background=(BackgroundTask("sink", consumer.run),))
