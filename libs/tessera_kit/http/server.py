"""The one HTTP server builder: uvicorn on the running loop, TLS, limits, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Final

import uvicorn

from tessera_kit.config import ConfigError, HttpConfig
from tessera_kit.http.app import HttpApp
from tessera_kit.http.connection import OneWriteProtocol
from tessera_kit.http.routes import HttpRoute, Render
from tessera_kit.http.status import error_response
from tessera_kit.rpc.identity import Authenticator
from tessera_kit.telemetry import names
from tessera_kit.telemetry.setup import Telemetry, active_telemetry

__all__ = ["HttpServer", "build_http_server"]

_BACKLOG: Final = 1024
_CONNECTIONS_PER_CALL: Final = 4


class HttpServer:
    """A bound server. Made by `build_http_server`; fits `tessera_kit.rpc.serving.serve`."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, address: str) -> None:
        self.address = address
        """`http://host:port` that it is bound to, or `https://`."""
        self._server = _Quiet(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(
            self._server.serve([self._listener]), name=f"http {self.address}"
        )
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RuntimeError(f"the HTTP server at {self.address} ended when it began")
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Take no new connections, let running requests end, cancel those that do not.

        Running requests have the configured drain time.
        """
        if self._task is None:
            self._listener.close()
            return
        self._server.should_exit = True
        await self._task


class _Quiet(uvicorn.Server):
    """uvicorn's server, which leaves the process's signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def build_http_server(
    config: HttpConfig,
    routes: Iterable[HttpRoute],
    *,
    authenticator: Authenticator,
    telemetry: Telemetry | None = None,
    render: Render = error_response,
) -> HttpServer:
    """Return a server that is bound and not started; call it where an event loop runs.

    Every request goes through the pipeline (see `tessera_kit.http.app`); all but the open routes
    need a token.

    Args:
        config: Address, TLS and limits.
        routes: What it answers.
        authenticator: Tells whose token a request carries.
        telemetry: Where spans and durations go; the process's active one when None.
        render: How errors are written, where a route has no way of its own.

    Raises:
        ConfigError: A TLS file cannot be read.
        OSError: The address cannot be bound.
    """
    telemetry = telemetry or active_telemetry()
    app = HttpApp(
        routes,
        authenticator=authenticator,
        calls=telemetry.server_calls(),
        max_concurrent=config.max_concurrent,
        max_body_bytes=config.max_body_bytes,
        call_seconds=config.deadline_seconds,
        stream_seconds=config.stream_deadline_seconds,
        render=render,
    )
    settings = _settings(app, config)
    listener, bound = _bind(config.listen)
    address = f"{'https' if settings.is_ssl else 'http'}://{bound}"
    active = telemetry.metrics.gauge(names.RPC_SERVER_ACTIVE).labels(address)
    active.set_function(lambda: app.running)
    return HttpServer(settings, listener, address)


def _settings(app: HttpApp, config: HttpConfig) -> uvicorn.Config:
    settings = uvicorn.Config(
        app,
        loop="none",
        http=OneWriteProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        # A connection's requests must not see what the one before left in its context.
        reset_contextvars=True,
        limit_concurrency=_CONNECTIONS_PER_CALL * config.max_concurrent,
        timeout_keep_alive=round(config.keep_alive_seconds),
        timeout_graceful_shutdown=round(config.drain_seconds),
        ssl_certfile=config.tls_cert_file,
        ssl_keyfile=None if config.tls_key_file is None else str(config.tls_key_file),
        ssl_ca_certs=None if config.tls_client_ca_file is None else str(config.tls_client_ca_file),
        ssl_cert_reqs=ssl.CERT_NONE if config.tls_client_ca_file is None else ssl.CERT_REQUIRED,
    )
    try:
        settings.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use the TLS files of {config.listen}: {error}") from None
    return settings


def _bind(listen: str) -> tuple[socket.socket, str]:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener, f"{host}:{listener.getsockname()[1]}"
