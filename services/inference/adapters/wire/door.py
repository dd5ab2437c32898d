"""A lean gRPC server: the gateway's door, for callers that are strangers.

It speaks HTTP/2 (RFC 9113) on asyncio and takes the method handlers of `grpc`, so that a service
does not know which server it is on. `infra/adr/0020-gateway-data-path.md` has the reason.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import _async as reflection
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION

from services.inference.adapters.wire.call import CallAborted, CallConnection, ServedCall
from services.inference.adapters.wire.caller import CallerConnection
from services.inference.adapters.wire.limits import WireLimits
from services.inference.adapters.wire.messages import InvalidBody
from services.inference.adapters.wire.method import Method
from services.inference.adapters.wire.sides import Connection
from tessera_kit.config import ConfigError, RpcConfig
from tessera_kit.rpc.health import HealthServicer
from tessera_kit.rpc.server import RawBinding
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["WireDoor"]

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_CHECK_SECONDS: Final = 1.0
_LAST_CALLS_SECONDS: Final = 0.2
_MOST_PATHS: Final = 256


class WireDoor:
    """A bound server; see `tessera_kit.rpc.serving.Server`.

    Args:
        config: Address, TLS, drain time and largest message.
        bindings: What answers. Each sees to identity, errors and limits itself.
        metrics: Where running calls are counted.
        limits: Bounds of what callers may take.

    Raises:
        ConfigError: A TLS file cannot be read.
        OSError: The address cannot be bound.
    """

    def __init__(
        self,
        config: RpcConfig,
        bindings: Sequence[RawBinding],
        *,
        metrics: Metrics,
        limits: WireLimits | None = None,
    ) -> None:
        self.limits = limits or WireLimits(message_bytes=config.max_message_bytes)
        self.held = 0
        """Bytes of requests and unsent responses in the process."""
        self._config = config
        self._handlers = [binding.handler for binding in bindings]
        self._paths: dict[str, Method | None] = {}
        service_names = [binding.service_name for binding in bindings]
        self._health = HealthServicer(service_names)
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._tls = _tls_context(config)
        self._socket, self.address = _bound(config.listen)
        active = metrics.gauge(names.RPC_SERVER_ACTIVE).labels(self.address)
        active.set_function(lambda: self.running)
        registrar: Any = self
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.ReflectionServicer([*service_names, health.SERVICE_NAME, REFLECTION]),
            registrar,
        )

    @property
    def running(self) -> int:
        """Calls that are being answered."""
        return len(self._tasks)

    async def start(self) -> None:
        """Begin to answer, and tell so to health checks."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: CallerConnection(self),
            sock=self._socket,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=self.limits.handshake_seconds if self._tls else None,
        )
        self._checking = loop.call_later(_CHECK_SECONDS, self._check)
        await self._health.begin()

    async def stop(self) -> None:
        """Tell health checks, take no new calls, let running ones end, cancel those that do not.

        Running calls have the configured drain time.
        """
        await self._health.end()
        if self._server is not None:
            self._server.close()
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            connection.drain()
        # A caller that does not answer the ping is told the last call all the same.
        late = loop.call_later(_LAST_CALLS_SECONDS, self._refuse_more)
        end = loop.time() + self._config.drain_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self._ended()
        late.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_CHECK_SECONDS)
        for connection in list(self._connections):
            connection.abort()
        if self._checking is not None:
            self._checking.cancel()
        if self._server is None:
            self._socket.close()

    async def _ended(self) -> None:
        if self._connections:
            self._empty.clear()
            await self._empty.wait()

    def _refuse_more(self) -> None:
        for connection in list(self._connections):
            connection.refuse_more()

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            connection.check(now)
        self._checking = loop.call_later(_CHECK_SECONDS, self._check)

    # What generated `add_XServicer_to_server` functions call.

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add handlers that are asked for a method by its path."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service."""
        for name, handler in handlers.items():
            self._paths[f"/{service}/{name}"] = Method(handler)

    # What connections ask.

    def enter(self, connection: Connection) -> bool:
        """Note a new connection; False when there are too many."""
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def find(self, path: str) -> Method | None:
        """The method of a path; None when it is not offered."""
        method = self._paths.get(path)
        if method is not None:
            return method
        details = _Details(path)
        for handler in self._handlers:
            found = handler.service(details)
            if found is not None:
                method = Method(found)
                if len(self._paths) < _MOST_PATHS:
                    self._paths[path] = method
                return method
        return None

    def start_call(self, connection: CallConnection, call: ServedCall) -> asyncio.Task[None]:
        """Answer a call."""
        task = asyncio.get_running_loop().create_task(self._answer(connection, call))
        self._tasks.add(task)
        return task

    def cancel_call(self, call: ServedCall) -> None:
        """Cancel the task of a call."""
        task = call.task
        if task is None:
            return
        task.cancel()
        if not call.begun:
            # It never runs, so it cannot tell that it ended.
            self._tasks.discard(task)
            call.end_unbegun()

    async def _answer(self, connection: CallConnection, call: ServedCall) -> None:
        call.begun = True
        code, details = grpc.StatusCode.OK, ""
        method: Method = call.method
        try:
            if method.request_streaming or method.response_streaming:
                await _answer_stream(connection, call, method)
            else:
                await _answer_one(connection, call, method)
            code, details = call.code, call.details
        except CallAborted:
            code, details = call.code, call.details
        except InvalidBody as error:
            code, details = error.code, error.text
        except asyncio.CancelledError:
            late = call.time_remaining() == 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            details = "the deadline passed" if late else "the call was cancelled"
        except Exception:
            _log.exception("%s failed", call.head.path)
            code, details = grpc.StatusCode.INTERNAL, "an internal error happened"
        finally:
            connection.finish(call, code, details)
            connection.over(call)
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)


async def _answer_one(connection: CallConnection, call: ServedCall, method: Method) -> None:
    if call.message is None:
        raise RuntimeError("a call begins with its message")
    message, compressed = call.message
    if compressed:
        message = await connection.plain(call, message, compressed)
    request = message if method.deserialize is None else method.deserialize(message)
    reply = await method.behaviour(request, call)
    if call.code is grpc.StatusCode.OK:
        connection.reply(call, reply if method.serialize is None else method.serialize(reply))


async def _answer_stream(connection: CallConnection, call: ServedCall, method: Method) -> None:
    call.serialize_with(method.serialize)
    if method.request_streaming:
        request: Any = _requests(call, method)
    else:
        if call.message is None:
            raise RuntimeError("a call begins with its message")
        message = await connection.plain(call, *call.message)
        request = message if method.deserialize is None else method.deserialize(message)
    if method.generates:
        async for response in method.behaviour(request, call):
            await call.write(response)
        return
    reply = await method.behaviour(request, call)
    if not method.response_streaming and call.code is grpc.StatusCode.OK:
        await call.write(reply)


async def _requests(call: ServedCall, method: Method) -> Any:
    while (message := await call.read()) is not None:
        yield message if method.deserialize is None else method.deserialize(message)


class _Details(grpc.HandlerCallDetails):
    """What a generic handler is asked with."""

    def __init__(self, path: str) -> None:
        self.method = path
        self.invocation_metadata = ()


def _bound(listen: str) -> tuple[socket.socket, str]:
    if listen.startswith("unix:"):
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(listen.removeprefix("unix:"))
        return bound, listen
    host, _, port = listen.rpartition(":")
    name = host.strip("[]")
    family, _, _, _, address = socket.getaddrinfo(
        name or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    dual = family == socket.AF_INET6 and name in ("", "::")
    made = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    return made, f"{host}:{made.getsockname()[1]}"


def _tls_context(config: RpcConfig) -> ssl.SSLContext | None:
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
        if config.tls_client_ca_file is not None:
            context.load_verify_locations(config.tls_client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ConfigError(f"cannot use the TLS files: {error}") from None
    return context
