"""Puts the gateway together over its ports and the control plane; names no concrete adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeAlias

from services.inference.config import Config
from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.infer import InferenceHandler, InferenceLimits
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.predictions import (
    PREDICTION_SERVICE,
    PredictionHandler,
    PredictionProtocol,
)
from services.inference.gateway.protocol import SERVICE_NAME, InferenceProtocol
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.shadows import Shadows
from services.inference.gateway.streams import StreamHandler, StreamLimits
from services.inference.handlers.cases import Outside, UseCases
from services.inference.handlers.memory_watch import MemoryWatch
from services.inference.handlers.replacement import Replacement
from services.inference.rest.errors import oip_error
from services.inference.rest.routes import gateway_routes
from tessera_kit.config import RpcConfig
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.server import RawBinding
from tessera_kit.rpc.serving import BackgroundTask, Server
from tessera_kit.telemetry.setup import active_telemetry

__all__ = ["Gateway", "OpenDoor", "build_gateway"]

OpenDoor: TypeAlias = Callable[[RpcConfig, Sequence[RawBinding]], Server]
"""Binds a gRPC door for services that see to identity and errors themselves."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway, not started."""

    servers: Sequence[Server]
    """The Open Inference Protocol's door; and the same by HTTP, with MLflow's scoring."""
    background: Sequence[BackgroundTask]
    """The work beside them."""


def build_gateway(
    config: Config, outside: Outside, cases: UseCases, open_door: OpenDoor
) -> Gateway:
    """Bind the gateway's doors, which answer by the same handlers; call it where a loop runs."""
    routes, metrics = cases.routes, cases.metrics
    hold = RuntimeHold()
    watch = _memory_watch(config, outside, cases, hold)
    recorder = Recorder(outside.capture, routes, metrics)
    shadows = Shadows(outside.runtime, recorder, metrics)
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
        metrics,
        cases.deployer.suspect,
        cases.deployer.follow,
    )
    infer = InferenceHandler(
        routes,
        authority=outside.authority,
        limiter=limiter,
        dispatcher=dispatcher,
        recorder=recorder,
        calls=active_telemetry().server_calls().method(f"{SERVICE_NAME}/ModelInfer"),
        metrics=metrics,
        limits=limits,
    )
    longest = StreamLimits(longest_seconds=config.gateway_rpc.stream_deadline_seconds)
    streams = StreamHandler(infer, dispatcher, recorder, limits, longest)
    descriptions = Descriptions(routes, outside.authority, version("tessera-ml"))
    bindings = _bindings(config, infer, streams, descriptions)
    return Gateway(
        (
            open_door(config.gateway_rpc, bindings),
            _http_door(config, outside, infer, descriptions),
        ),
        (
            BackgroundTask("shadows", shadows.run),
            BackgroundTask("rate limits", limiter.run),
            BackgroundTask("runtime memory", watch.run),
        ),
    )


def _memory_watch(
    config: Config, outside: Outside, cases: UseCases, hold: RuntimeHold
) -> MemoryWatch:
    replacement = Replacement(
        store=outside.replacements,
        hold=hold,
        routes=cases.routes,
        clock=outside.clock,
        look_seconds=config.reconcile_seconds,
    )
    return MemoryWatch(
        process=outside.process,
        models=outside.runtime_models,
        routes=cases.routes,
        replacement=replacement,
        deployer=cases.deployer,
        bound=config.runtime_growth_bytes,
        interval_seconds=config.reconcile_seconds,
    )


def _bindings(
    config: Config, infer: InferenceHandler, streams: StreamHandler, descriptions: Descriptions
) -> Sequence[RawBinding]:
    predictions = PredictionHandler(
        infer,
        active_telemetry().server_calls().method(f"{PREDICTION_SERVICE}/Predict"),
        most=config.gateway_rpc.max_message_bytes,
    )
    return [
        RawBinding(InferenceProtocol(descriptions, infer, streams), SERVICE_NAME),
        RawBinding(PredictionProtocol(predictions), PREDICTION_SERVICE),
    ]


def _http_door(
    config: Config, outside: Outside, infer: InferenceHandler, descriptions: Descriptions
) -> Server:
    routes = gateway_routes(
        infer,
        descriptions,
        max_body_bytes=config.gateway_http.max_body_bytes,
        max_message_bytes=config.gateway_rpc.max_message_bytes,
        seconds=config.gateway_http.deadline_seconds,
    )
    return build_http_server(
        config.gateway_http, routes, authenticator=outside.authority, render=oip_error
    )
