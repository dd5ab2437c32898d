"""What every request goes through: telemetry, then errors, then identity and limits.

The same steps, in the same order and with the same names in metrics and traces, as a gRPC call's
(`tessera_kit.rpc.pipeline`); raw ASGI, for a framework's own layers cost more than small calls do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tessera_kit.errors import TesseraError
from tessera_kit.http.identity import request_token
from tessera_kit.http.routes import HttpRoute, Render, RouteTable
from tessera_kit.http.status import BodyTooLarge, error_response
from tessera_kit.rpc import deadline, identity
from tessera_kit.rpc.identity import Authenticator
from tessera_kit.rpc.overdue import Overdue
from tessera_kit.rpc.pipeline import TooManyCalls, failure_of
from tessera_kit.rpc.status import code_of
from tessera_kit.telemetry.calls import MethodCalls, ServerCalls

__all__ = ["HttpApp"]

_log = logging.getLogger(__name__)
_TRACED: Final = {b"traceparent": "traceparent", b"tracestate": "tracestate"}
_UNROUTED: Final = "_unrouted"


class HttpApp:
    """An ASGI application over routes; one per server.

    Args:
        routes: What it answers.
        authenticator: Tells whose token a request carries.
        calls: Records spans and durations.
        max_concurrent: Requests running at once; more are answered 429.
        max_body_bytes: Most bytes of a body, where a route has no bound of its own.
        call_seconds: Longest run of a request.
        stream_seconds: Longest run of a request to a route that streams.
        render: How errors are written, where a route has no way of its own.
    """

    def __init__(
        self,
        routes: Iterable[HttpRoute],
        *,
        authenticator: Authenticator,
        calls: ServerCalls,
        max_concurrent: int,
        max_body_bytes: int,
        call_seconds: float,
        stream_seconds: float,
        render: Render = error_response,
    ) -> None:
        self.running = 0
        routes = list(routes)
        self._table = RouteTable(routes)
        self._calls = {route.name: calls.method(route.name, "http") for route in routes}
        self._unrouted = calls.method(_UNROUTED, "http")
        self._authenticator = authenticator
        self._max_concurrent = max_concurrent
        self._max_body_bytes = max_body_bytes
        self._call_seconds = call_seconds
        self._stream_seconds = stream_seconds
        self._render = render
        self._overdue = Overdue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"cannot answer {scope['type']}")
        exchange = _Exchange(scope, receive, send)
        try:
            route, scope["path_params"] = self._table.find(scope["method"], scope["path"])
        except TesseraError as error:
            began = self._unrouted.begin(())
            self._unrouted.end(began, code_of(type(error)).name)
            await exchange.answer(self._render(error, exchange.request))
            return
        await self._observed(route, exchange)

    async def _observed(self, route: HttpRoute, exchange: _Exchange) -> None:
        calls: MethodCalls = self._calls[route.name]
        began = calls.begin(exchange.trace_headers())
        try:
            await self._run(route, exchange)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                calls.end(began, "CANCELLED")
                raise
            failure = failure_of(error, route.name)
        except ClientDisconnect:
            calls.end(began, "CANCELLED")
            return
        except Exception as error:
            failure = failure_of(error, route.name)
        else:
            calls.end(began, "OK")
            return
        calls.end(began, code_of(type(failure)).name)
        if exchange.started:
            # The status is out: only a cut connection tells the client that the rest is missing.
            raise failure
        await exchange.answer((route.render or self._render)(failure, exchange.request))

    async def _run(self, route: HttpRoute, exchange: _Exchange) -> None:
        if self.running >= self._max_concurrent:
            raise TooManyCalls("the server runs as many calls as it may", retry_after=1.0)
        self.running += 1
        try:
            if not route.open:
                token = request_token(exchange.header(b"authorization"))
                identity.enter_call(await self._authenticator.authenticate(token))
            exchange.bound_body(
                self._max_body_bytes if route.max_body_bytes is None else route.max_body_bytes
            )
            seconds = self._stream_seconds if route.streams else self._call_seconds
            deadline.enter_call(seconds)
            await self._overdue.bounded(self._answer(route, exchange), seconds)
        finally:
            self.running -= 1

    @staticmethod
    async def _answer(route: HttpRoute, exchange: _Exchange) -> None:
        await exchange.answer(await route.endpoint(exchange.request))


class _Exchange:
    """One request and its response: bounds the body, and notes when the response has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started = False
        self.request = Request(scope, self._receive)
        self._scope = scope
        self._receive_raw = receive
        self._send_raw = send
        self._left = 0

    def header(self, name: bytes) -> str | None:
        """Return the first header of that name (lower case); None without one."""
        for key, value in self._scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    def trace_headers(self) -> list[tuple[str, str | bytes]]:
        """Return the headers that name the caller's trace."""
        return [
            (_TRACED[key], value.decode("latin-1"))
            for key, value in self._scope["headers"]
            if key in _TRACED
        ]

    def bound_body(self, most: int) -> None:
        """Let the body have at most so many bytes.

        Raises:
            BodyTooLarge: It announces more; one that does not fails while it is read.
        """
        self._left = most
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > most:
            raise _too_large(most)
        self._most = most

    async def answer(self, response: Response) -> None:
        """Send the response."""
        await response(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        message = await self._receive_raw()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _too_large(self._most)
        return message

    async def _send(self, message: Any) -> None:
        self.started = True
        await self._send_raw(message)


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {most} bytes", metadata={"most": str(most)})
