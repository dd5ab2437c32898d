"""Puts the inference service together; the only module that names concrete adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc

from services.inference.adapters.acting import ActingTokens
from services.inference.adapters.bundles import FileBundles
from services.inference.adapters.catalog import GrpcCatalog
from services.inference.adapters.clickhouse import ClickHousePayloads
from services.inference.adapters.local_process import LocalRuntimeProcess
from services.inference.adapters.origins import GrpcLineage, GrpcRuns
from services.inference.adapters.secret_files import FileSecrets
from services.inference.adapters.sql import SqlBudgets, SqlEndpoints, SqlReplacements
from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.models import TritonModels
from services.inference.adapters.triton.sharing import TensorSharing
from services.inference.adapters.triton.wire import TritonWire
from services.inference.adapters.triton_inside.calls import TritonCalls
from services.inference.adapters.triton_inside.models import InsideModels
from services.inference.adapters.triton_inside.process import InsideProcess
from services.inference.adapters.triton_inside.relay import compiled
from services.inference.adapters.triton_inside.server import TritonPlace, TritonServer
from services.inference.adapters.wire.door import WireDoor
from services.inference.capture.bodies import LargeBodies
from services.inference.capture.lull import Lull
from services.inference.capture.reader import SpoolReader
from services.inference.capture.shipper import BATCH_BYTES, SpoolShipper
from services.inference.capture.spool import Spool
from services.inference.config import Config, ShipperConfig, SinkConfig, SpoolConfig
from services.inference.consumers import ALERTS_GROUP, alert_handlers, payload_consumer
from services.inference.gateway_doors import build_gateway
from services.inference.handlers.cases import Outside, Pace, UseCases, build_use_cases
from services.inference.ports import Runtime, RuntimeModels, RuntimeProcess
from services.inference.servicers import bindings
from services.inference.sink.writer import PayloadSink
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.serving import App, BackgroundTask
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sql import Database
from tessera_kit.telemetry import names
from tessera_kit.telemetry.setup import active_telemetry

__all__ = ["build_app", "build_shipper", "build_sink"]

_DRAIN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Engines:
    """What the service stands on, open."""

    database: Database
    clickhouse: ClickHouse
    objects: S3ObjectStore
    producer: EventProducer
    authority: CatalogAuthority
    acting: ActingTokens
    catalog: grpc.aio.Channel
    """For calls that bring their own tokens."""
    tracking: grpc.aio.Channel | None
    """Likewise; None where there is no tracking."""


@dataclass(frozen=True, slots=True)
class _Runtime:
    """The model runtime, as its three ports."""

    asked: Runtime
    models: RuntimeModels
    process: RuntimeProcess


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """The service's process: control plane and gateway."""
    await migrate(config.database.url, "inference")
    async with AsyncExitStack() as stack:
        engines = await _open(config, stack)
        outside = await _outside(config, engines, stack)
        cases = build_use_cases(
            outside,
            Pace(config.reconcile_seconds, config.idle_seconds, config.body_sweep_seconds),
        )
        door = partial(WireDoor, metrics=outside.metrics)
        gateway = build_gateway(config, outside, cases, door)
        control = build_server(config.rpc, bindings(cases), authenticator=engines.authority)
        await cases.deployer.start()
        yield App(
            (control, *gateway.servers),
            (*gateway.background, *_background(config, engines, cases)),
        )


async def _open(config: Config, stack: AsyncExitStack) -> _Engines:
    enter = stack.enter_async_context
    database = await enter(Database(config.database))
    producer = await enter(EventProducer(config.kafka, client_id="inference"))
    own = await enter(open_channel(config.targets.catalog, token=config.token, tls=config.tls))
    # Calls for others bring those others' tokens.
    bare = await enter(open_channel(config.targets.catalog, tls=config.tls))
    clickhouse = await enter(ClickHouse(config.clickhouse))
    objects = await enter(S3ObjectStore(config.s3))
    tracking = None
    if config.targets.tracking:
        tracking = await enter(open_channel(config.targets.tracking, tls=config.tls))
    return _Engines(
        database,
        clickhouse,
        objects,
        producer,
        CatalogAuthority(own),
        ActingTokens(own),
        bare,
        tracking,
    )


async def _outside(config: Config, engines: _Engines, stack: AsyncExitStack) -> Outside:
    acting = engines.acting
    catalog = GrpcCatalog(engines.catalog, acting, largest_file=config.largest_model_file)
    endpoints = SqlEndpoints(engines.database)
    runtime = await _runtime(config, stack)
    return Outside(
        endpoints=endpoints,
        models=catalog,
        tables=catalog,
        places=endpoints,
        reader=ClickHousePayloads(engines.clickhouse),
        lineage=GrpcLineage(engines.catalog, acting),
        runs=GrpcRuns(engines.tracking, acting),
        budgets=SqlBudgets(engines.database),
        replacements=SqlReplacements(engines.database),
        process=runtime.process,
        runtime=runtime.asked,
        runtime_models=runtime.models,
        bundles=FileBundles(config.models_directory),
        secrets=FileSecrets(config.secrets_directory),
        capture=_spool(config.spool, stack),
        objects=engines.objects,
        authority=engines.authority,
        clock=SystemClock(),
        metrics=active_telemetry().metrics,
    )


async def _runtime(config: Config, stack: AsyncExitStack) -> _Runtime:
    """Triton in this process, or what asks one of its own."""
    triton, most, dead = config.triton, config.gateway_rpc.max_message_bytes, DeadModels()
    if triton.library is None:
        models = TritonModels(triton.grpc_target, dead)
        stack.push_async_callback(models.close)
        wire = TritonWire(
            triton.grpc_target, max_message_bytes=most, sharing=_sharing(config), dead=dead
        )
        stack.push_async_callback(wire.close)
        return _Runtime(wire, models, LocalRuntimeProcess(triton.grpc_target))
    data = config.models_directory.parent
    folder = data / "triton"
    server = TritonServer(
        TritonPlace(triton.library, triton.backends, triton.caches, folder / "models", data)
    )
    stack.push_async_callback(server.stop)
    await server.start()
    relay = await asyncio.to_thread(compiled, folder)
    calls = TritonCalls(server, max_message_bytes=most, relay=relay, dead=dead)
    stack.push_async_callback(calls.close)
    return _Runtime(calls, InsideModels(server, dead), InsideProcess(server, calls))


def _sharing(config: Config) -> TensorSharing | None:
    size = config.gateway.shared_memory_bytes
    if not size:
        return None
    return TensorSharing(config.triton.grpc_target, config.spool.directory, size)


def _spool(config: SpoolConfig, stack: AsyncExitStack) -> Spool:
    spool = Spool(config.directory, segment_bytes=config.segment_bytes, max_bytes=config.max_bytes)
    spool.open()
    stack.callback(spool.close)
    pending = active_telemetry().metrics.gauge(names.SPOOL_PENDING)
    pending.set_function(spool.pending_bytes)
    return spool


def _background(config: Config, engines: _Engines, cases: UseCases) -> Sequence[BackgroundTask]:
    alerts = ConsumerRunner(
        config.kafka,
        group=ALERTS_GROUP,
        handlers=alert_handlers(cases.canaries),
        unit_of_work=None,
        dead_letters=engines.producer,
    )
    return (
        BackgroundTask("deployer", cases.deployer.run),
        BackgroundTask("idle entities", cases.elastic.run),
        BackgroundTask("canaries", cases.canaries.run),
        BackgroundTask("bodies", cases.bodies.run),
        BackgroundTask("outbox", OutboxRelay(engines.database, engines.producer).run),
        BackgroundTask("alerts", alerts.run),
        BackgroundTask("grants", GrantWatcher(engines.authority, config.kafka).run),
        BackgroundTask("grants, asked", engines.authority.follow),
    )


@asynccontextmanager
async def build_shipper(config: ShipperConfig) -> AsyncIterator[App]:
    """The shipper's process: what the gateway beside it appends to its spool goes to the bus."""
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(
            EventProducer(
                config.kafka,
                client_id="inference-shipper",
                compression="lz4",
                # The bus has headers and lengths around what the spool holds.
                batch_bytes=BATCH_BYTES + (1 << 20),
            )
        )
        objects = await stack.enter_async_context(S3ObjectStore(config.s3))
        clock = SystemClock()
        reader = SpoolReader(config.spool.directory)
        reader.open()
        stack.callback(reader.close)
        shipper = SpoolShipper(
            reader,
            LargeBodies(objects, config.largest_logged_body),
            Lull(reader, clock, config.spool.max_bytes),
            producer,
            active_telemetry().metrics,
            clock,
        )
        stack.push_async_callback(shipper.drain, _DRAIN_SECONDS)
        yield App(servers=(), background=(BackgroundTask("shipper", shipper.run),))


@asynccontextmanager
async def build_sink(config: SinkConfig) -> AsyncIterator[App]:
    """The sink's process: payload records become rows of inference tables."""
    await migrate(config.database.url, "inference")
    async with AsyncExitStack() as stack:
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
