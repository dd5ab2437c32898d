"""Puts the service together from its ports; names no concrete adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from services.inference.capture.bodies import LargeBodies
from services.inference.capture.shipper import SpoolShipper
from services.inference.capture.spool import Spool
from services.inference.config import Config
from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.infer import InferenceHandler, InferenceLimits
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.predictions import (
    PREDICTION_SERVICE,
    PredictionHandler,
    PredictionProtocol,
)
from services.inference.gateway.protocol import SERVICE_NAME, InferenceProtocol
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.routing import RouteTable
from services.inference.gateway.shadows import Shadows
from services.inference.gateway.streams import StreamHandler, StreamLimits
from services.inference.handlers.body_sweep import BodySweep
from services.inference.handlers.canaries import Canaries
from services.inference.handlers.changes import Changes
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.elastic import Elastic
from services.inference.handlers.endpoints import EndpointHandlers
from services.inference.handlers.explanations import Explanations
from services.inference.handlers.memory_watch import MemoryWatch
from services.inference.handlers.payloads import Payloads
from services.inference.handlers.resolution import Resolver
from services.inference.ports import (
    Bundles,
    Endpoints,
    Lineage,
    ModelRegistry,
    RateBudgets,
    Runs,
    Runtime,
    RuntimeModels,
    RuntimeProcess,
    Secrets,
    TableCatalog,
    TableReader,
    Tables,
)
from services.inference.rest.errors import oip_error
from services.inference.rest.routes import gateway_routes
from services.inference.servicers import InferenceServicer
from tessera.inference.v1 import inference_service_pb2_grpc as rpc
from tessera_kit.bus.producer import Publisher
from tessera_kit.clock import Clock
from tessera_kit.config import RpcConfig
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.server import BackgroundTask, Binding, RawBinding, RpcServer, build_server
from tessera_kit.rpc.serving import Server
from tessera_kit.store.objects import ObjectStore
from tessera_kit.telemetry.setup import active_telemetry

__all__ = ["Outside", "Service", "build_service"]


@dataclass(frozen=True, slots=True)
class Outside:
    """What the service stands on."""

    endpoints: Endpoints
    models: ModelRegistry
    tables: TableCatalog
    places: Tables
    reader: TableReader
    lineage: Lineage
    runs: Runs
    budgets: RateBudgets
    process: RuntimeProcess
    runtime: Runtime
    runtime_models: RuntimeModels
    bundles: Bundles
    secrets: Secrets
    spool: Spool
    """Opened."""
    publisher: Publisher
    objects: ObjectStore
    authority: Authority
    clock: Clock
    open_door: Callable[[RpcConfig, Sequence[RawBinding]], Server]
    """Binds the gateway's door for a service that sees to identity and errors itself."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service, not started."""

    control: RpcServer
    """The control plane's door."""
    gateway: Server
    """The Open Inference Protocol's door."""
    gateway_http: Server
    """The same by HTTP, with MLflow's scoring."""
    deployer: Deployer
    """Keeps the runtime in order; `start` it before the doors open."""
    canaries: Canaries
    """Minds alerts, which the bus tells."""
    background: tuple[BackgroundTask, ...]
    """The work beside the doors."""


def build_service(config: Config, outside: Outside) -> Service:
    """Bind the doors; call it where an event loop runs."""
    telemetry = active_telemetry()
    routes, changes = RouteTable(), Changes()
    deployer = Deployer(
        endpoints=outside.endpoints,
        models=outside.models,
        runtime=outside.runtime_models,
        bundles=outside.bundles,
        secrets=outside.secrets,
        routes=routes,
        changes=changes,
        clock=outside.clock,
        interval_seconds=config.reconcile_seconds,
    )
    handlers = EndpointHandlers(
        endpoints=outside.endpoints,
        tables=outside.tables,
        reader=outside.reader,
        resolver=Resolver(outside.models, outside.authority),
        deployer=deployer,
        authority=outside.authority,
        changes=changes,
        clock=outside.clock,
    )
    canaries = Canaries(
        handlers=handlers,
        endpoints=outside.endpoints,
        reader=outside.reader,
        deployer=deployer,
        clock=outside.clock,
    )
    metrics = GatewayMetrics(telemetry.metrics)
    elastic = Elastic(
        routes=routes,
        models=outside.runtime_models,
        deployer=deployer,
        metrics=metrics,
        idle_seconds=config.idle_seconds,
    )
    recorder = Recorder(outside.spool, routes, metrics)
    shadows = Shadows(outside.runtime, recorder, metrics)
    hold = RuntimeHold()
    watch = MemoryWatch(
        process=outside.process,
        models=outside.runtime_models,
        routes=routes,
        hold=hold,
        deployer=deployer,
        bound=config.runtime_growth_bytes,
    )
    limiter = RateLimiter(outside.budgets, outside.clock)
    dispatcher = Dispatcher(
        routes, outside.runtime, shadows, hold, metrics, deployer.suspect, deployer.follow
    )
    limits = InferenceLimits(
        max_in_flight=config.gateway.max_in_flight,
        longest_seconds=config.gateway_rpc.unary_deadline_seconds,
    )
    infer = InferenceHandler(
        routes,
        authority=outside.authority,
        limiter=limiter,
        dispatcher=dispatcher,
        recorder=recorder,
        calls=telemetry.server_calls().method(f"{SERVICE_NAME}/ModelInfer"),
        metrics=metrics,
        limits=limits,
    )
    streams = StreamHandler(
        infer,
        dispatcher,
        recorder,
        limits,
        StreamLimits(longest_seconds=config.gateway_rpc.stream_deadline_seconds),
    )
    descriptions = Descriptions(routes, outside.authority, version("tessera-ml"))
    protocol = InferenceProtocol(descriptions, infer, streams)
    bodies = Payloads(
        tables=outside.places,
        reader=outside.reader,
        objects=outside.objects,
        authority=outside.authority,
    )
    sweep = BodySweep(
        tables=outside.places,
        reader=outside.reader,
        objects=outside.objects,
        clock=outside.clock,
        metrics=telemetry.metrics,
        interval_seconds=config.body_sweep_seconds,
    )
    predictions = PredictionHandler(
        infer,
        telemetry.server_calls().method(f"{PREDICTION_SERVICE}/Predict"),
        most=config.gateway_rpc.max_message_bytes,
    )
    explanations = Explanations(
        tables=outside.places,
        endpoints=outside.endpoints,
        reader=outside.reader,
        models=outside.models,
        lineage=outside.lineage,
        runs=outside.runs,
        authority=outside.authority,
        clock=outside.clock,
    )
    control = Binding(
        rpc.add_InferenceServiceServicer_to_server,
        InferenceServicer(handlers, canaries, elastic, bodies, explanations),
        "tessera.inference.v1.InferenceService",
    )
    payloads = LargeBodies(outside.publisher, outside.objects, config.gateway.largest_logged_body)
    shipper = SpoolShipper(outside.spool, payloads, telemetry.metrics)
    return Service(
        control=build_server(config.rpc, [control], authenticator=outside.authority),
        gateway=outside.open_door(
            config.gateway_rpc,
            [
                RawBinding(protocol, SERVICE_NAME),
                RawBinding(PredictionProtocol(predictions), PREDICTION_SERVICE),
            ],
        ),
        gateway_http=build_http_server(
            config.gateway_http,
            gateway_routes(
                infer,
                descriptions,
                max_body_bytes=config.gateway_http.max_body_bytes,
                max_message_bytes=config.gateway_rpc.max_message_bytes,
                seconds=config.gateway_http.deadline_seconds,
            ),
            authenticator=outside.authority,
            render=oip_error,
        ),
        deployer=deployer,
        canaries=canaries,
        background=(
            BackgroundTask("deployer", deployer.run),
            BackgroundTask("idle entities", elastic.run),
            BackgroundTask("shadows", shadows.run),
            BackgroundTask("canaries", canaries.run),
            BackgroundTask("rate limits", limiter.run),
            BackgroundTask("runtime memory", watch.run),
            BackgroundTask("shipper", shipper.run),
            BackgroundTask("bodies", sweep.run),
        ),
    )
