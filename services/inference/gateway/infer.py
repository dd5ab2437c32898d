"""ModelInfer: who asks, whether they may, what they ask, the model's answer, and the log of it all.

Every request of an endpoint becomes one payload record in the spool before its reply leaves.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span, SpanKind
from tritonclient.grpc import service_pb2

from services.inference.errors import (
    InvalidInference,
    TooManyInferences,
)
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import Route, RouteTable
from services.inference.gateway.status import public_status
from tessera.catalog.v1 import securable_pb2
from tessera_kit.ids import new_id
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import bearer_token
from tessera_kit.rpc.status import trailing_metadata_of
from tessera_kit.telemetry import names
from tessera_kit.telemetry.calls import MethodCalls

__all__ = ["CODES", "REQUEST_ID_KEY", "InferenceHandler", "InferenceLimits", "reply_suffix"]

Context = grpc.aio.ServicerContext[Any, Any]
Call: TypeAlias = tuple[float, Span]

_log = logging.getLogger(__name__)

REQUEST_ID_KEY: Final = "tessera-request-id"
"""Metadata key and response parameter that tell a caller the id of its request."""
_EXECUTE: Final = securable_pb2.PRIVILEGE_EXECUTE
_ENDPOINT: Final = securable_pb2.SECURABLE_TYPE_ENDPOINT
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_OK, _CANCELLED, _DEADLINE_EXCEEDED = 0, 1, 4
_RETRY_SECONDS: Final = 0.05

# ModelInferResponse.parameters["tessera_request_id"].string_param without its 36 characters.
_ID_PARAMETER: Final = b"\x22\x3c\x0a\x12tessera_request_id\x12\x26\x1a\x24"


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    """Bounds of the gateway."""

    max_in_flight: int = 512
    """Requests at once; more are refused."""
    longest_seconds: float = 60.0
    """How long a request may take whose caller set no deadline, or a later one."""


class InferenceHandler:
    """Answers ModelInfer on raw bytes; one per gateway.

    Args:
        routes: Where requests go.
        authority: Tells callers apart and what they may do.
        limiter: Holds calls to the endpoints' rate limits.
        dispatcher: Asks the models.
        recorder: Keeps the records.
        calls: Records spans and durations.
        metrics: Counts by endpoint and version.
        limits: Bounds.
    """

    def __init__(
        self,
        routes: RouteTable,
        *,
        authority: Authority,
        limiter: RateLimiter,
        dispatcher: Dispatcher,
        recorder: Recorder,
        calls: MethodCalls,
        metrics: GatewayMetrics,
        limits: InferenceLimits,
    ) -> None:
        self._routes = routes
        self._authority = authority
        self._limiter = limiter
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._calls = calls
        self._metrics = metrics
        self._limits = limits
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self._in_flight

    async def infer(self, data: bytes, context: Context) -> bytes:
        """Answer a serialised `inference.ModelInferRequest`."""
        metadata = context.invocation_metadata() or ()
        exchange, call = self.begin(data, metadata)
        context.set_trailing_metadata(((REQUEST_ID_KEY, exchange.request_id),))
        code = "OK"
        try:
            reply = await self._answer(exchange, metadata, self._timeout(context))
            self._recorder.keep(exchange, reply, _OK, "")
            return reply
        except asyncio.CancelledError:
            code = self.keep_cancelled(exchange, context)
            raise
        except Exception as error:
            status = public_status(error)
            code = CODES[status.code].name
            self._recorder.keep_failure(exchange, status.code, status.message)
            context.set_trailing_metadata(
                ((REQUEST_ID_KEY, exchange.request_id), trailing_metadata_of(status))
            )
            await context.abort(CODES[status.code], status.message)
        finally:
            self.end(exchange, call, code)

    async def _answer(self, exchange: Exchange, metadata: Any, timeout: float) -> bytes:
        request, route = await self.admit(exchange, metadata)
        reply = await self._dispatcher.ask(exchange, route, request, metadata, timeout)
        return reply + reply_suffix(exchange)

    # What `streams` uses too.

    def begin(self, data: bytes, metadata: Any) -> tuple[Exchange, Call]:
        """Take a serialised request; `end` has to follow."""
        exchange = Exchange(new_id(), data)
        call = self._calls.begin(metadata)
        exchange.span = call[1].get_span_context()
        self._in_flight += 1
        return exchange, call

    def end(self, exchange: Exchange, call: Call, code: str) -> None:
        """Count and trace a request that ended with the gRPC status `code`."""
        self._in_flight -= 1
        if call[1].is_recording():
            self._trace(call, exchange, code)
        self._calls.end(call, code)
        self._metrics.observe(exchange, code)

    def keep_cancelled(self, exchange: Exchange, context: Context, reply: bytes = b"") -> str:
        """Keep a request that its caller or its deadline has ended; returns the code's name."""
        late = context.time_remaining() == 0
        number = _DEADLINE_EXCEEDED if late else _CANCELLED
        text = "the deadline passed" if late else "the caller cancelled"
        self._recorder.keep_failure(exchange, number, text, reply)
        return CODES[number].name

    async def admit(self, exchange: Exchange, metadata: Any) -> tuple[Any, Route]:
        """The parsed request and its route, once its caller may ask it and it fits the signature.

        Raises:
            TesseraError: It may not, or does not.
        """
        try:
            request = service_pb2.ModelInferRequest.FromString(exchange.request)
        except DecodeError:
            raise InvalidInference("the request is not an inference.ModelInferRequest") from None
        exchange.endpoint = name = request.model_name
        exchange.client_request_id = request.id
        if self._in_flight > self._limits.max_in_flight:
            raise TooManyInferences(
                "the gateway has as many requests in flight as it may", retry_after=_RETRY_SECONDS
            )
        token = bearer_token(metadata)
        principal = await self._authority.authenticate(token)
        exchange.requester = principal.name
        exchange.route = route = self._routes.find(name)
        await self._authority.require(principal, _EXECUTE, _ENDPOINT, name)
        exchange.authorised = True
        if route.limits:
            await self._limiter.admit(route.endpoint.endpoint_id, route.limits, principal, token)
        # A configuration may have become ready meanwhile, and the models of this one be unloaded.
        exchange.route = route = self._routes.find(name)
        route.rules.check(request)
        return request, route

    def _timeout(self, context: Context) -> float:
        longest = self._limits.longest_seconds
        left = context.time_remaining()
        return longest if left is None or left > longest else left

    def _trace(self, call: Call, exchange: Exchange, code: str) -> None:
        """Tell a recorded request's steps and what it was about."""
        served = exchange.served
        call[1].set_attribute(names.REQUEST_ID, exchange.request_id)
        if served is not None and exchange.model_began:
            about: dict[str, str | int] = {
                names.ENDPOINT: exchange.endpoint,
                names.MODEL: served.model_name,
                names.MODEL_VERSION: served.model_version,
            }
            call[1].set_attributes(about)
            self._calls.record_step(
                *(call, names.SPAN_MODEL_INFER, SpanKind.CLIENT),
                *(exchange.model_began, exchange.model_ended),
                attributes=about,
                error=None if exchange.model_answered else code,
            )
        if exchange.spool_ended:
            self._calls.record_step(
                *(call, names.SPAN_SPOOL_APPEND, SpanKind.INTERNAL),
                *(exchange.spool_began, exchange.spool_ended),
            )


def reply_suffix(exchange: Exchange) -> bytes:
    """What turns the runtime's response into the caller's."""
    suffix = exchange.served.reply_suffix if exchange.served is not None else b""
    return b"".join((suffix, _ID_PARAMETER, exchange.request_id.encode()))
