"""An inference request by HTTP: the same steps and the same record as by gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Protocol

from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from tritonclient.grpc import service_pb2

from services.inference.domain.signature import Signature
from services.inference.gateway.infer import REQUEST_ID_KEY, InferenceHandler
from services.inference.gateway.records import Exchange
from services.inference.rest.bodies import Bodies
from tessera_kit.http.identity import request_token
from tessera_kit.http.status import BodyTooLarge
from tessera_kit.ids import new_id

__all__ = ["Asked", "Dialect", "HttpInference", "request_id_of"]

_LARGE: Final = 256 << 10
_LARGE_AT_ONCE: Final = 2
_SHORTEST: Final = 0.001


class Asked(NamedTuple):
    """A request that was read."""

    message: service_pb2.ModelInferRequest
    """Without the model's name and version."""
    write: Callable[[service_pb2.ModelInferResponse, Exchange], Response]
    """Makes the response."""


class Dialect(Protocol):
    """How one protocol writes a request and its answer."""

    def read(self, body: bytes, request: Request, signature: Signature) -> Asked:
        """Read a request; runs in a thread when its body is large.

        Raises:
            InvalidInference: It is none; the violation names the place.
            BodyTooLarge: A part of it is larger than it may be.
        """


class HttpInference:
    """Answers inference requests by HTTP.

    Args:
        infer: Admits requests, asks models, keeps records.
        bodies: Reads bodies.
        most: Largest message that the runtime takes, in bytes.
        seconds: How long a request may take.
    """

    def __init__(
        self, infer: InferenceHandler, bodies: Bodies, *, most: int, seconds: float
    ) -> None:
        self._infer = infer
        self._bodies = bodies
        self._most = most
        self._seconds = seconds
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def answer(
        self, request: Request, dialect: Dialect, endpoint: str, version: str = ""
    ) -> Response:
        """Answer a request to an endpoint; what fails is raised after its record is kept."""
        exchange = Exchange(new_id(), b"")
        exchange.endpoint = endpoint
        request.state.tessera_request_id = exchange.request_id
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        made: list[Response] = []

        async def work() -> bytes:
            metadata = _metadata(request)
            route = await self._infer.admit_caller(exchange, endpoint, metadata)
            async with self._bodies.read(request) as body:
                exchange.request = body
                asked = await self._read(dialect, body, request, route.signature)
                self._put(exchange, asked.message, endpoint, version)
                async with _until_given_up(request):
                    left = max(end - loop.time(), _SHORTEST)
                    reply = await self._infer.ask(exchange, asked.message, metadata, left)
            made.append(asked.write(service_pb2.ModelInferResponse.FromString(reply), exchange))
            return reply

        span = trace.get_current_span()
        self._infer.enter(exchange, span)
        try:
            answer = _with_disconnects(work())
            await self._infer.recorded(exchange, answer, lambda: loop.time() >= end)
        except _CallerGone:
            raise ClientDisconnect from None
        finally:
            self._infer.leave(exchange, span, exchange.code)
        response = made[0]
        response.headers[REQUEST_ID_KEY] = exchange.request_id
        return response

    async def _read(
        self, dialect: Dialect, body: bytes, request: Request, signature: Signature
    ) -> Asked:
        if len(body) <= _LARGE:
            return dialect.read(body, request, signature)
        # Reading takes its time, in which others are answered, and much more memory than the body.
        async with self._large:
            return await asyncio.to_thread(dialect.read, body, request, signature)

    def _put(
        self, exchange: Exchange, message: service_pb2.ModelInferRequest, name: str, version: str
    ) -> None:
        message.model_name = name
        message.model_version = version
        exchange.client_request_id = message.id
        if message.ByteSize() > self._most:
            raise BodyTooLarge(
                f"the request's tensors may have at most {self._most} bytes",
                metadata={"most": str(self._most)},
            )
        exchange.request = message.SerializeToString()


def request_id_of(request: Request) -> str:
    """The id that a request got; empty when it got none."""
    identifier: str = getattr(request.state, "tessera_request_id", "")
    return identifier


class _CallerGone(asyncio.CancelledError):
    """The caller closed the connection: its request is given up as if it were cancelled."""


async def _with_disconnects(work: Coroutine[Any, Any, bytes]) -> bytes:
    try:
        return await work
    except ClientDisconnect:
        raise _CallerGone from None


@asynccontextmanager
async def _until_given_up(request: Request) -> AsyncIterator[None]:
    """Cancel what runs in the block when the caller goes away; its body has been read."""
    task = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        await request.receive()
        gone = True
        if task is not None:
            task.cancel()

    watcher = asyncio.create_task(watch(), name="a caller's connection")
    try:
        yield
    except asyncio.CancelledError:
        # Somebody else may have cancelled it as well: then it stays so.
        if gone and task is not None and task.uncancel() <= 0:
            raise _CallerGone from None
        raise
    finally:
        watcher.cancel()


def _metadata(request: Request) -> list[tuple[str, str | bytes]]:
    """The headers as a call's metadata; a token that came as a password is a bearer's there."""
    metadata: list[tuple[str, str | bytes]] = [
        (name, value) for name, value in request.headers.items() if name != "authorization"
    ]
    token = request_token(request.headers.get("authorization"))
    return [("authorization", f"Bearer {token}"), *metadata]
