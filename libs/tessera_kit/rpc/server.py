"""The one gRPC server builder: limits, TLS, health, reflection, the pipeline around each method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tessera_kit.config import RpcConfig
from tessera_kit.rpc.behaviours import Handler
from tessera_kit.rpc.health import HealthServicer
from tessera_kit.rpc.identity import Authenticator
from tessera_kit.rpc.pipeline import Pipeline
from tessera_kit.rpc.tls import server_credentials
from tessera_kit.telemetry import names
from tessera_kit.telemetry.setup import Telemetry, active_telemetry

__all__ = ["Binding", "RawBinding", "RpcServer", "build_server"]

_MOST_METHODS = 1024


@dataclass(frozen=True, slots=True)
class Binding:
    """One service of a server."""

    add: Callable[[Any, grpc.aio.Server], None]
    """The generated `add_XServicer_to_server`."""
    servicer: object
    """What answers; its methods are async."""
    service_name: str
    """Full proto name, for health and reflection: `tessera.catalog.v1.CatalogService`."""


@dataclass(frozen=True, slots=True)
class RawBinding:
    """A service whose handler does everything itself, for servers that have no pipeline."""

    handler: grpc.GenericRpcHandler
    """Answers the service's methods; it is asked for every call."""
    service_name: str
    """Full proto name, for health and reflection."""


class RpcServer:
    """A bound server. Made by `build_server`."""

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        address: str,
        health: HealthServicer,
        drain_seconds: float,
    ) -> None:
        self.address = address
        """`host:port` that it is bound to."""
        self._server = server
        self._health = health
        self._drain_seconds = drain_seconds

    async def start(self) -> None:
        """Begin to answer, and tell so to health checks."""
        await self._server.start()
        await self._health.begin()

    async def stop(self) -> None:
        """Tell health checks, take no new calls, let running ones end, cancel those that do not.

        Running calls have the configured drain time.
        """
        await self._health.end()
        await self._server.stop(self._drain_seconds)


class _Registrar:
    """Stands for the server while services add themselves: wraps what they add."""

    def __init__(self, server: grpc.aio.Server, pipeline: Pipeline) -> None:
        self._server = server
        self._pipeline = pipeline

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        wrapped = [_WrappedGeneric(handler, self._pipeline) for handler in handlers]
        self._server.add_generic_rpc_handlers(wrapped)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        wrap = self._pipeline.wrap
        wrapped = {name: wrap(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)


class _WrappedGeneric(grpc.GenericRpcHandler):
    """A generic handler whose methods go through the pipeline; it is asked once per method."""

    def __init__(self, handler: grpc.GenericRpcHandler, pipeline: Pipeline) -> None:
        self._handler = handler
        self._pipeline = pipeline
        self._wrapped: dict[str, Handler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        method = details.method
        found = self._wrapped.get(method)
        if found is not None:
            return found
        handler = self._handler.service(details)
        if handler is None:
            return None
        # A handler that answers to any name must not grow this table, nor the metrics' labels.
        known = len(self._wrapped) < _MOST_METHODS
        wrapped = self._pipeline.wrap(method.lstrip("/") if known else "_other", handler)
        if known:
            self._wrapped[method] = wrapped
        return wrapped


def build_server(
    config: RpcConfig,
    bindings: Sequence[Binding],
    *,
    authenticator: Authenticator,
    telemetry: Telemetry | None = None,
    generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
    options: Sequence[tuple[str, str | int]] = (),
) -> RpcServer:
    """Return a server that is bound and not started; call it where an event loop runs.

    Every method goes through the pipeline (see `tessera_kit.rpc.pipeline`). Health and reflection
    are open to all; everything else needs a token.

    Args:
        config: Address, TLS and limits.
        bindings: The services.
        authenticator: Tells whose token a call carries.
        telemetry: Where spans and durations go; the process's active one when None.
        generic_handlers: Handlers of raw methods; each is asked once per method name.
        options: Channel arguments of grpc, after and over the builder's own.

    Raises:
        ConfigError: A TLS file cannot be read.
        RuntimeError: The address cannot be bound.
    """
    telemetry = telemetry or active_telemetry()
    pipeline = Pipeline(
        authenticator=authenticator,
        calls=telemetry.server_calls(),
        max_concurrent=config.max_concurrent_rpcs,
        unary_seconds=config.unary_deadline_seconds,
        stream_seconds=config.stream_deadline_seconds,
    )
    server = grpc.aio.server(options=[*_options(config), *options])
    registrar: Any = _Registrar(server, pipeline)
    for binding in bindings:
        binding.add(binding.servicer, registrar)
    if generic_handlers:
        registrar.add_generic_rpc_handlers(generic_handlers)
    told = _add_open_services(server, [one.service_name for one in bindings])
    address = _bind(server, config)
    active = telemetry.metrics.gauge(names.RPC_SERVER_ACTIVE).labels(address)
    active.set_function(lambda: pipeline.running)
    return RpcServer(server, address=address, health=told, drain_seconds=config.drain_seconds)


def _add_open_services(server: grpc.aio.Server, service_names: Sequence[str]) -> HealthServicer:
    """Add health and reflection, around the pipeline."""
    servicer = HealthServicer(service_names)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection(
        [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    return servicer


def _options(config: RpcConfig) -> list[tuple[str, str | int]]:
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        # Two servers on one port would share its calls silently.
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: grpc.aio.Server, config: RpcConfig) -> str:
    credentials = server_credentials(config)
    if credentials is None:
        port = server.add_insecure_port(config.listen)
    else:
        port = server.add_secure_port(config.listen, credentials)
    if config.listen.startswith("unix:"):
        return config.listen
    host, _, _ = config.listen.rpartition(":")
    return f"{host}:{port}"
