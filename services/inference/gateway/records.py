"""Payload records: what the gateway keeps of one request, whatever became of it."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import Final

from opentelemetry.trace import INVALID_SPAN_CONTEXT

from services.inference.capture.frames import LARGEST_RECORD
from services.inference.domain.fields import bytes_head, numbers
from services.inference.gateway.forms import Fit
from services.inference.gateway.routing import Route, Served
from tessera.events.v1 import inference_events_pb2

__all__ = [
    "FALLBACK",
    "LARGEST_BODY",
    "SHADOW",
    "Exchange",
    "answering_note_of",
    "asking_note_of",
    "begun_record_of",
    "make_head",
    "record_of",
]

NOT_AUTHORISED: Final = "REQUEST_NOT_AUTHORISED"
"""The request's body was not kept because its caller may not query the endpoint."""
REQUEST_TOO_LARGE: Final = "MAX_REQUEST_SIZE_EXCEEDED"
"""The request's body is larger than what the spool takes."""
RESPONSE_TOO_LARGE: Final = "MAX_RESPONSE_SIZE_EXCEEDED"
"""The response's body is larger than what the spool takes beside the request's."""
STREAM_CUT_SHORT: Final = "STREAM_CUT_SHORT"
"""The gateway was killed amid the answer; what had left of it is not known."""

PRIMARY: Final = inference_events_pb2.PAYLOAD_ROUTE_PRIMARY
SHADOW: Final = inference_events_pb2.PAYLOAD_ROUTE_SHADOW
FALLBACK: Final = inference_events_pb2.PAYLOAD_ROUTE_FALLBACK
_REFUSED: Final = inference_events_pb2.PAYLOAD_ROUTE_REFUSED
_REQUEST: Final = inference_events_pb2.PayloadRecord.REQUEST_FIELD_NUMBER
# Tags, as `numbers` writes them.
_ROUTE: Final = inference_events_pb2.PayloadRecord.ROUTE_FIELD_NUMBER << 3
_DURATION: Final = inference_events_pb2.PayloadRecord.DURATION_US_FIELD_NUMBER << 3
_EXECUTION: Final = inference_events_pb2.PayloadRecord.EXECUTION_DURATION_US_FIELD_NUMBER << 3
_RESPONSE: Final = inference_events_pb2.PayloadRecord.RESPONSE_FIELD_NUMBER << 3 | 2
_KEPT_ALWAYS: Final = inference_events_pb2.PayloadRecord(sampling_fraction=1.0).SerializeToString()
_PROTOCOL: Final = inference_events_pb2.PAYLOAD_ENCODING_OIP_V2_PROTOBUF
LARGEST_BODY: Final = LARGEST_RECORD - (1 << 20)
"""Bytes of a request and its response that fit a record."""
_UNAVAILABLE: Final = 14
_MOST_CHUNK_TIMES: Final = 100_000
_LONGEST_TEXT: Final = {"client_request_id": 512, "endpoint": 128, "status_message": 8192}


class Exchange:
    """One request on its way through the gateway."""

    __slots__ = (
        "authorised",
        "began",
        "chunk_times_us",
        "client_request_id",
        "code",
        "encoding",
        "endpoint",
        "failed",
        "fit",
        "head",
        "leg",
        "model_answered",
        "model_began",
        "model_ended",
        "queue_us",
        "reply_cut",
        "request",
        "request_id",
        "requester",
        "route",
        "sequence",
        "served",
        "span",
        "spool_began",
        "spool_ended",
        "time_ns",
    )

    def __init__(self, request_id: str, request: bytes) -> None:
        self.time_ns = time_ns()
        self.began = perf_counter_ns()
        self.request_id = request_id
        self.request = request
        self.encoding = _PROTOCOL
        """How the request is encoded."""
        self.endpoint = ""
        self.client_request_id = ""
        self.code = "OK"
        """Name of the gRPC status that it ended with."""
        self.requester = ""
        self.span = INVALID_SPAN_CONTEXT
        self.authorised = False
        self.route: Route | None = None
        self.served: Served | None = None
        self.leg = PRIMARY
        """How the request was led."""
        self.failed: tuple[str, ...] = ()
        """Names of the entities that were asked before and failed."""
        self.model_answered = False
        self.model_began = self.model_ended = 0
        self.queue_us = 0
        """Microseconds of waiting for a place."""
        self.spool_began = self.spool_ended = 0
        self.fit: Fit | None = None
        """The known form of the request, where it has one."""
        self.sequence = ""
        """The sequence that the request belongs to, told apart from other callers'."""
        self.chunk_times_us: list[int] = []
        """When each response of a stream came, in microseconds after the request."""
        self.head: tuple[bytes, ...] = ()
        """What of its record is known before the answer, serialised, and the request's body."""
        self.reply_cut = False
        """Whether the response was too large to be put together."""

    def mirror(self, number: int, served: Served) -> Exchange:
        """The exchange of a shadow of this request."""
        shadow = Exchange(f"{self.request_id}.s{number}", self.request)
        shadow.endpoint = self.endpoint
        shadow.client_request_id = self.client_request_id
        shadow.requester = self.requester
        shadow.span = self.span
        shadow.authorised = True
        shadow.route = self.route
        shadow.served = served
        shadow.leg = SHADOW
        shadow.sequence = self.sequence
        shadow.fit = self.fit
        return shadow

    def end_model(self) -> None:
        """Note that the model has answered, or failed."""
        self.model_ended = perf_counter_ns()

    def note_chunk(self) -> None:
        """Note that a response of a stream has come."""
        if len(self.chunk_times_us) < _MOST_CHUNK_TIMES:
            self.chunk_times_us.append(self.duration_us)

    @property
    def execution_us(self) -> int:
        """Microseconds that the model runtime took; 0 when it was not asked."""
        return (self.model_ended - self.model_began) // 1000

    @property
    def duration_us(self) -> int:
        """Microseconds since the request arrived."""
        return (perf_counter_ns() - self.began) // 1000


def make_head(exchange: Exchange) -> None:
    """Serialise what is known of an exchange once its caller was admitted.

    Done while the model computes, it does not keep the reply.
    """
    if not exchange.head:
        kept = _kept_of(exchange)
        fields = _known_of(exchange)
        exchange.head = (fields + bytes_head(_REQUEST, len(kept)) if kept else fields, kept)


def record_of(exchange: Exchange, response: bytes, status: int, message: str) -> tuple[bytes, ...]:
    """The serialised `tessera.events.v1.PayloadRecord` of an exchange that has ended, in parts.

    The bodies are parts of their own: protobuf takes 2 ms to put 1 MB into a message. Of the usual
    one only the few numbers that the answer brings are serialised here, as the reply waits for it.

    Args:
        exchange: The request, for an endpoint that has a table.
        response: The reply; empty on failure.
        status: gRPC status code of the reply.
        message: Public text of the failure; empty on success.
    """
    make_head(exchange)
    known, kept = exchange.head
    if exchange.reply_cut or len(kept) + len(response) > LARGEST_BODY:
        rest, response = _rest_of(exchange, status, message, RESPONSE_TOO_LARGE), b""
    elif status or exchange.queue_us or exchange.failed or exchange.chunk_times_us:
        rest = _rest_of(exchange, status, message)
    else:
        rest = b""
    ended = numbers(
        _ROUTE,
        exchange.leg if exchange.model_began else _REFUSED,
        _DURATION,
        exchange.duration_us,
        _EXECUTION,
        exchange.execution_us,
        _RESPONSE,
        len(response),  # The response comes behind it.
    )
    return known, kept, b"".join((*_asked_of(exchange), rest, ended)), response


def _known_of(exchange: Exchange) -> bytes:
    seconds, nanos = divmod(exchange.time_ns, 1_000_000_000)
    record = inference_events_pb2.PayloadRecord(
        tessera_request_id=exchange.request_id,
        client_request_id=exchange.client_request_id[: _LONGEST_TEXT["client_request_id"]],
        endpoint=exchange.endpoint[: _LONGEST_TEXT["endpoint"]],
        requester=exchange.requester,
        encoding=exchange.encoding,
    )
    record.request_time.seconds = seconds
    record.request_time.nanos = nanos // 1000 * 1000
    if exchange.span.is_valid:
        record.trace_id = f"{exchange.span.trace_id:032x}"
        record.span_id = exchange.span.span_id.to_bytes(8, "big")
        record.trace_flags = exchange.span.trace_flags
    if not exchange.authorised:
        record.logging_error_codes.append(NOT_AUTHORISED)
    elif len(exchange.request) > LARGEST_BODY:
        record.logging_error_codes.append(REQUEST_TOO_LARGE)
    return record.SerializeToString()


def _asked_of(exchange: Exchange) -> tuple[bytes, bytes]:
    """The fields that tell who was asked, at the end: it may be another one than was chosen."""
    route, served = exchange.route, exchange.served
    return (
        _KEPT_ALWAYS if route is None else route.record_fields,
        b"" if served is None else served.record_fields,
    )


def _rest_of(exchange: Exchange, status: int, message: str, *codes: str) -> bytes:
    """The fields that the usual request has no values for."""
    return inference_events_pb2.PayloadRecord(
        status_code=status,
        status_message=message[: _LONGEST_TEXT["status_message"]],
        queue_duration_us=exchange.queue_us,
        failed_served_entities=exchange.failed,
        chunk_times_us=exchange.chunk_times_us,
        logging_error_codes=codes,
    ).SerializeToString()


def _kept_of(exchange: Exchange) -> bytes:
    """The request's body as far as it may be kept."""
    fits = exchange.authorised and len(exchange.request) <= LARGEST_BODY
    return exchange.request if fits else b""


def begun_record_of(exchange: Exchange) -> bytes:
    """The serialised record of an answer in parts whose end never comes, before it is asked for."""
    text = "the gateway ended before the answer did"
    record = inference_events_pb2.PayloadRecord(logging_error_codes=[STREAM_CUT_SHORT])
    return b"".join((*record_of(exchange, b"", _UNAVAILABLE, text), record.SerializeToString()))


def asking_note_of(exchange: Exchange) -> bytes:
    """What is known more when an entity is asked: a PayloadRecord to merge into that one."""
    return b"".join((*_asked_of(exchange), numbers(_ROUTE, exchange.leg)))


def answering_note_of(exchange: Exchange) -> bytes:
    """What is known more when the first part is there; the durations are those until then."""
    exchange.end_model()
    return inference_events_pb2.PayloadRecord(
        duration_us=exchange.duration_us,
        execution_duration_us=exchange.execution_us,
        queue_duration_us=exchange.queue_us,
        failed_served_entities=exchange.failed,
        chunk_times_us=exchange.chunk_times_us,
    ).SerializeToString()
