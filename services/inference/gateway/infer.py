"""ModelInfer: who asks, whether they may, what they ask, the model's answer, and the log of it all.

Every request of an endpoint becomes one payload record in the spool before its reply leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span, SpanKind
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import Piece, split
from services.inference.errors import (
    InvalidInference,
    TooManyInferences,
)
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.doorkeeper import Doorkeeper
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import Route, RouteTable
from services.inference.gateway.sequences import own_sequence
from services.inference.gateway.status import failure_of, public_status
from tessera_kit.errors import TesseraError
from tessera_kit.ids import new_id
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.status import trailing_metadata_of
from tessera_kit.tasks import in_next_turn
from tessera_kit.telemetry import names
from tessera_kit.telemetry.calls import MethodCalls

__all__ = [
    "CODES",
    "REQUEST_ID_KEY",
    "InferenceHandler",
    "InferenceLimits",
    "deadline_passed",
]

Context = grpc.aio.ServicerContext[Any, Any]
Call: TypeAlias = tuple[float, Span]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

REQUEST_ID_KEY: Final = "tessera-request-id"
"""Metadata key and response parameter that tell a caller the id of its request."""
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_OK, _CANCELLED, _DEADLINE_EXCEEDED = 0, 1, 4
_LARGE: Final = 64 << 10
"""Bytes of a request from which on parsing copies too much."""
_RAW_CONTENTS: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RETRY_SECONDS: Final = 0.05
_ON_THE_WAY_SECONDS: Final = 0.05


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
        self._doorkeeper = Doorkeeper(authority, routes)
        self._limiter = limiter
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._calls = calls
        self._metrics = metrics
        self._limits = limits
        self._in_flight = 0
        self._ended: list[tuple[Exchange, Call, str]] = []

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self._in_flight

    async def infer(self, data: bytes, context: Context) -> bytes:
        """Answer a serialised `inference.ModelInferRequest`."""
        metadata = context.invocation_metadata() or ()
        exchange, call = self.begin(data, metadata)
        try:
            answer = self._answer(exchange, metadata, self.timeout(context))
            return await self.told(exchange, answer, context)
        finally:
            self.end(exchange, call, exchange.code)

    async def _answer(self, exchange: Exchange, metadata: Metadata, timeout: float) -> bytes:
        request, route = await self.admit(exchange, metadata)
        in_next_turn(self._recorder.prepare, exchange)
        return await self._dispatcher.ask(exchange, route, request, metadata, timeout)

    # What other doors use too.

    async def told(self, exchange: Exchange, work: Awaitable[bytes], context: Context) -> bytes:
        """Await an exchange's reply as `recorded` does, and tell a failure as the call's status."""
        context.set_trailing_metadata(((REQUEST_ID_KEY, exchange.request_id),))
        try:
            return await self.recorded(exchange, work, lambda: deadline_passed(context))
        except TesseraError as error:
            status = public_status(error)
            context.set_trailing_metadata(
                ((REQUEST_ID_KEY, exchange.request_id), trailing_metadata_of(status))
            )
            await context.abort(CODES[status.code], status.message)

    def begin(self, data: bytes, metadata: Metadata) -> tuple[Exchange, Call]:
        """Take a serialised request; `end` has to follow."""
        exchange = Exchange(new_id(), data)
        call = self._calls.begin(metadata)
        self.enter(exchange, call[1])
        return exchange, call

    def end(self, exchange: Exchange, call: Call, code: str) -> None:
        """Count and trace a request that ended with the gRPC status `code`.

        That happens a turn of the loop later, when the reply is on its way.
        """
        self._in_flight -= 1
        if not self._ended:
            in_next_turn(self._count_ended)
        self._ended.append((exchange, call, code))

    def enter(self, exchange: Exchange, span: Span) -> None:
        """Count a request in, whose call has a span; `leave` has to follow."""
        exchange.span = span.get_span_context()
        self._in_flight += 1

    def leave(self, exchange: Exchange, span: Span, code: str) -> None:
        """Count a request out that ended with the gRPC status `code`."""
        self._in_flight -= 1
        self._count(exchange, span, code)

    async def recorded(
        self, exchange: Exchange, work: Awaitable[bytes], is_late: Callable[[], bool]
    ) -> bytes:
        """Await an exchange's reply and keep its record before it is returned, whatever it is.

        Args:
            exchange: The request; `code` is the name of its status afterwards.
            work: Comes to the reply, a serialised `inference.ModelInferResponse`.
            is_late: Whether a call that is cancelled now is so for its deadline.

        Raises:
            TesseraError: The failure, as the caller may be told of it.
        """
        try:
            reply = await work
            self._recorder.keep(exchange, reply, _OK, "")
            return reply
        except asyncio.CancelledError:
            exchange.code = self.keep_cancelled(exchange, is_late())
            raise
        except Exception as error:
            failure = failure_of(error)
            status = public_status(failure)
            exchange.code = CODES[status.code].name
            self._recorder.keep_failure(exchange, status.code, status.message)
            if failure is error:
                raise
            raise failure from error

    def keep_cancelled(self, exchange: Exchange, late: bool, reply: bytes = b"") -> str:
        """Keep a request that its caller or its deadline has ended; returns the code's name."""
        number = _DEADLINE_EXCEEDED if late else _CANCELLED
        text = "the deadline passed" if late else "the caller cancelled"
        self._recorder.keep_failure(exchange, number, text, reply)
        return CODES[number].name

    async def admit(self, exchange: Exchange, metadata: Metadata) -> tuple[Any, Route]:
        """The parsed request and its route, once its caller may ask it and it fits the signature.

        A large request comes without its raw contents, which nobody needs then but in its bytes.

        Raises:
            TesseraError: It may not, or does not.
        """
        request, contents = _parsed(exchange.request)
        exchange.client_request_id = request.id
        await self.admit_caller(exchange, request.model_name, metadata)
        # A configuration may have become ready meanwhile, and the models of this one be unloaded.
        exchange.route = route = self._routes.find(exchange.endpoint)
        _hold_to_rules(exchange, route, request, contents)
        return request, route

    async def admit_caller(self, exchange: Exchange, name: str, metadata: Metadata) -> Route:
        """Let a caller ask an endpoint, or not; returns the endpoint's route as it is now.

        Args:
            exchange: Told who asks, and for which endpoint.
            name: The endpoint's.
            metadata: Of the call, with the caller's token.

        Raises:
            TooManyInferences: The gateway has as many requests as it may.
            Unauthenticated: The token is missing, or nobody's.
            EndpointNotFound: There is no such endpoint, or the caller may not see it.
            EndpointNotReady: Its first configuration is not ready.
            PermissionDenied: The caller may see it, and not ask it.
            RateLimited: It asked as often as it may.
        """
        exchange.endpoint = name
        if self._in_flight > self._limits.max_in_flight:
            raise TooManyInferences(
                "the gateway has as many requests in flight as it may", retry_after=_RETRY_SECONDS
            )
        allowed = self._doorkeeper.known(exchange, metadata)
        if allowed is None:
            allowed = await self._doorkeeper.admit(exchange, metadata)
        exchange.authorised = True
        exchange.route = route = self._routes.find(name)
        if route.limits:
            await self._limiter.admit(
                route.endpoint.endpoint_id, route.limits, allowed.principal, allowed.token
            )
        return route

    async def ask(
        self, exchange: Exchange, request: Any, metadata: Metadata, timeout: float
    ) -> bytes:
        """The answer to the request of an exchange whose caller was admitted before.

        Args:
            exchange: Holds the request as it is sent on.
            request: The same, parsed.
            metadata: Of the call.
            timeout: Seconds that the caller has.

        Raises:
            InvalidInference: The request does not fit the endpoint's signature.
            TesseraError: The model gave no answer; see `Dispatcher.ask`.
        """
        exchange.route = route = self._routes.find(exchange.endpoint)
        _hold_to_rules(exchange, route, request, request.raw_input_contents)
        in_next_turn(self._recorder.prepare, exchange)
        return await self._dispatcher.ask(exchange, route, request, metadata, timeout)

    def timeout(self, context: Context) -> float:
        """Seconds that a call's request may take."""
        longest = self._limits.longest_seconds
        left = context.time_remaining()
        return longest if left is None or left > longest else left

    def _count_ended(self) -> None:
        ended, self._ended = self._ended, []
        for exchange, call, code in ended:
            self._count(exchange, call[1], code)
            self._calls.end(call, code)

    def _count(self, exchange: Exchange, span: Span, code: str) -> None:
        if span.is_recording():
            self._trace((0.0, span), exchange, code)
        self._metrics.observe(exchange, code)

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


def deadline_passed(context: Context) -> bool:
    """Whether a call that is cancelled now is so for its deadline.

    Clients cancel a call when its deadline passes by their own clock, which is earlier than by the
    gateway's: there it began when the request had come.
    """
    left = context.time_remaining()
    return left is not None and left <= _ON_THE_WAY_SECONDS


def _parsed(data: bytes) -> tuple[Any, Sequence[Piece]]:
    """A request and its raw contents; those of a large one are not copied into it."""
    parts = split(data, _RAW_CONTENTS) if len(data) >= _LARGE else None
    try:
        request = service_pb2.ModelInferRequest.FromString(data if parts is None else parts.head)
    except DecodeError:
        raise InvalidInference("the request is not an inference.ModelInferRequest") from None
    return request, request.raw_input_contents if parts is None else parts.values


def _hold_to_rules(
    exchange: Exchange, route: Route, request: Any, contents: Sequence[Piece]
) -> None:
    exchange.fit = route.rules.check(request, exchange.request, contents)
    if route.has_sequences:
        exchange.sequence = own_sequence(exchange.requester, request)
