"""Puts the service together from its ports; names no concrete adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

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
from services.inference.handlers.replacement import Replacement
from services.inference.handlers.resolution import Resolver
from services.inference.ports import (
    Bundles,
    Capture,
    Endpoints,
    Lineage,
    ModelRegistry,
    RateBudgets,
    Replacements,
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
from tessera_kit.clock import Clock
from tessera_kit.config import RpcConfig
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.server import Binding, RawBinding, RpcServer, build_server
from tessera_kit.rpc.serving import BackgroundTask, Server
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
    replacements: Replacements
    process: RuntimeProcess
    runtime: Runtime
    runtime_models: RuntimeModels
    bundles: Bundles
    secrets: Secrets
    capture: Capture
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


@dataclass(frozen=True, slots=True)
class _Core:
    """What the control plane and the gateway share."""

    config: Config
    outside: Outside
    routes: RouteTable
    changes: Changes
    deployer: Deployer
    metrics: GatewayMetrics


@dataclass(frozen=True, slots=True)
class _Control:
    """The control plane."""

    server: RpcServer
    canaries: Canaries
    background: tuple[BackgroundTask, ...]


@dataclass(frozen=True, slots=True)
class _Gateway:
    """The gateway: its two doors answer by the same handlers."""

    server: Server
    http: Server
    background: tuple[BackgroundTask, ...]


def build_service(config: Config, outside: Outside) -> Service:
    """Bind the doors; call it where an event loop runs."""
    core = _core(config, outside)
    control, gateway = _control(core), _gateway(core)
    return Service(
        control=control.server,
        gateway=gateway.server,
        gateway_http=gateway.http,
        deployer=core.deployer,
        canaries=control.canaries,
        background=(*control.background, *gateway.background),
    )


def _core(config: Config, outside: Outside) -> _Core:
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
    metrics = GatewayMetrics(active_telemetry().metrics)
    return _Core(config, outside, routes, changes, deployer, metrics)


def _control(core: _Core) -> _Control:
    outside, deployer = core.outside, core.deployer
    endpoints = EndpointHandlers(
        endpoints=outside.endpoints,
        tables=outside.tables,
        reader=outside.reader,
        resolver=Resolver(outside.models, outside.authority),
        deployer=deployer,
        authority=outside.authority,
        changes=core.changes,
        clock=outside.clock,
    )
    canaries = Canaries(
        handlers=endpoints,
        endpoints=outside.endpoints,
        reader=outside.reader,
        deployer=deployer,
        clock=outside.clock,
    )
    elastic = Elastic(
        routes=core.routes,
        models=outside.runtime_models,
        deployer=deployer,
        metrics=core.metrics,
        idle_seconds=core.config.idle_seconds,
    )
    servicer = InferenceServicer(
        endpoints, canaries, elastic, _payloads(outside), _explanations(outside)
    )
    binding = Binding(
        rpc.add_InferenceServiceServicer_to_server,
        servicer,
        "tessera.inference.v1.InferenceService",
    )
    return _Control(
        build_server(core.config.rpc, [binding], authenticator=outside.authority),
        canaries,
        (
            BackgroundTask("deployer", deployer.run),
            BackgroundTask("idle entities", elastic.run),
            BackgroundTask("canaries", canaries.run),
            BackgroundTask("bodies", _body_sweep(core).run),
        ),
    )


def _payloads(outside: Outside) -> Payloads:
    return Payloads(
        tables=outside.places,
        reader=outside.reader,
        objects=outside.objects,
        authority=outside.authority,
    )


def _body_sweep(core: _Core) -> BodySweep:
    outside = core.outside
    return BodySweep(
        tables=outside.places,
        reader=outside.reader,
        objects=outside.objects,
        clock=outside.clock,
        metrics=active_telemetry().metrics,
        interval_seconds=core.config.body_sweep_seconds,
    )


def _explanations(outside: Outside) -> Explanations:
    return Explanations(
        tables=outside.places,
        endpoints=outside.endpoints,
        reader=outside.reader,
        models=outside.models,
        lineage=outside.lineage,
        runs=outside.runs,
        authority=outside.authority,
        clock=outside.clock,
    )


def _gateway(core: _Core) -> _Gateway:
    config, outside, routes = core.config, core.outside, core.routes
    hold = RuntimeHold()
    watch = _memory_watch(core, hold)
    recorder = Recorder(outside.capture, routes, core.metrics)
    shadows = Shadows(outside.runtime, recorder, core.metrics)
    limiter = RateLimiter(outside.budgets, outside.clock)
    limits = InferenceLimits(
        max_in_flight=config.gateway.max_in_flight,
        longest_seconds=config.gateway_rpc.unary_deadline_seconds,
    )
    dispatcher = Dispatcher(
        routes,
        outside.runtime,
        shadows,
        hold,
        core.metrics,
        core.deployer.suspect,
        core.deployer.follow,
    )
    infer = InferenceHandler(
        routes,
        authority=outside.authority,
        limiter=limiter,
        dispatcher=dispatcher,
        recorder=recorder,
        calls=active_telemetry().server_calls().method(f"{SERVICE_NAME}/ModelInfer"),
        metrics=core.metrics,
        limits=limits,
    )
    longest = StreamLimits(longest_seconds=config.gateway_rpc.stream_deadline_seconds)
    streams = StreamHandler(infer, dispatcher, recorder, limits, longest)
    descriptions = Descriptions(routes, outside.authority, version("tessera-ml"))
    return _Gateway(
        _grpc_door(core, infer, streams, descriptions),
        _http_door(core, infer, descriptions),
        (
            BackgroundTask("shadows", shadows.run),
            BackgroundTask("rate limits", limiter.run),
            BackgroundTask("runtime memory", watch.run),
        ),
    )


def _memory_watch(core: _Core, hold: RuntimeHold) -> MemoryWatch:
    config, outside = core.config, core.outside
    replacement = Replacement(
        store=outside.replacements,
        hold=hold,
        routes=core.routes,
        clock=outside.clock,
        look_seconds=config.reconcile_seconds,
    )
    return MemoryWatch(
        process=outside.process,
        models=outside.runtime_models,
        routes=core.routes,
        replacement=replacement,
        deployer=core.deployer,
        bound=config.runtime_growth_bytes,
        interval_seconds=config.reconcile_seconds,
    )


def _grpc_door(
    core: _Core, infer: InferenceHandler, streams: StreamHandler, descriptions: Descriptions
) -> Server:
    config = core.config.gateway_rpc
    predictions = PredictionHandler(
        infer,
        active_telemetry().server_calls().method(f"{PREDICTION_SERVICE}/Predict"),
        most=config.max_message_bytes,
    )
    bindings = [
        RawBinding(InferenceProtocol(descriptions, infer, streams), SERVICE_NAME),
        RawBinding(PredictionProtocol(predictions), PREDICTION_SERVICE),
    ]
    return core.outside.open_door(config, bindings)


def _http_door(core: _Core, infer: InferenceHandler, descriptions: Descriptions) -> Server:
    config = core.config
    routes = gateway_routes(
        infer,
        descriptions,
        max_body_bytes=config.gateway_http.max_body_bytes,
        max_message_bytes=config.gateway_rpc.max_message_bytes,
        seconds=config.gateway_http.deadline_seconds,
    )
    return build_http_server(
        config.gateway_http, routes, authenticator=core.outside.authority, render=oip_error
    )
