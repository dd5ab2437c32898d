"""OpenTelemetry's trace export messages → spans, from protobuf or JSON."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from services.tracking.domain.traces.span import Event, Link, Span, SpanStatus
from services.tracking.errors import InvalidSpans

__all__ = ["decode_export", "inflate", "spans_in"]

_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_ID_FIELDS: Final = ("traceId", "spanId", "parentSpanId")
_LATEST: Final = 2**63 - 1
_MOST_BYTES: Final = 64 << 20
_KINDS: Final = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")
_STATUSES: Final = {
    trace_pb2.Status.STATUS_CODE_OK: SpanStatus.OK,
    trace_pb2.Status.STATUS_CODE_ERROR: SpanStatus.ERROR,
}


def inflate(body: bytes, encoding: str) -> bytes:
    """Return a body without its content encoding: gzip, deflate, or none.

    Raises:
        InvalidSpans: It is not so encoded, or of more than 64 MiB.
    """
    if encoding in {"", "identity"}:
        return body
    try:
        window = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}[encoding]
        inflater = zlib.decompressobj(window)
        plain = inflater.decompress(body, _MOST_BYTES)
    except KeyError:
        raise InvalidSpans(f"content encoding {encoding!r} is not known; use gzip") from None
    except zlib.error as error:
        raise InvalidSpans(f"the body is not {encoding}: {error}") from None
    if inflater.unconsumed_tail:
        raise InvalidSpans(f"the body holds more than {_MOST_BYTES} bytes; send less at once")
    if not inflater.eof:
        raise InvalidSpans(f"the body ends in the middle of its {encoding} stream")
    return plain


def decode_export(body: bytes, content_type: str) -> ExportTraceServiceRequest:
    """Return the message of an export request.

    Raises:
        InvalidSpans: The type is neither protobuf nor JSON, or the body is not of that type.
    """
    media = content_type.partition(";")[0].strip().lower()
    request = ExportTraceServiceRequest()
    try:
        if media == _PROTOBUF:
            request.ParseFromString(body)
        elif media == _JSON:
            ParseDict(_with_base64_ids(json.loads(body)), request, ignore_unknown_fields=True)
        else:
            raise InvalidSpans(
                f"Invalid Content-Type: {content_type}. Expected: {_PROTOBUF} or {_JSON}"
            )
    except (DecodeError, ParseError, ValueError, TypeError, AttributeError, RecursionError):
        raise InvalidSpans("Invalid OpenTelemetry format") from None
    if not request.resource_spans:
        raise InvalidSpans("Invalid OpenTelemetry format - no spans found")
    return request


def spans_in(request: ExportTraceServiceRequest) -> list[Span]:
    """Return the spans of an export request.

    Raises:
        InvalidSpans: One has no proper ids or times.
    """
    found: list[Span] = []
    for of_resource in request.resource_spans:
        resource = _texts(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            found += (_span(span, resource, of_scope.scope) for span in of_scope.spans)
    return found


def _span(
    message: trace_pb2.Span, resource: Mapping[str, str], scope: InstrumentationScope
) -> Span:
    if len(message.trace_id) != 16 or not any(message.trace_id):
        raise InvalidSpans("trace_id must have 16 bytes, not all of them zero")
    if len(message.span_id) != 8 or not any(message.span_id):
        raise InvalidSpans("span_id must have 8 bytes, not all of them zero")
    if len(message.parent_span_id) not in {0, 8}:
        raise InvalidSpans("parent_span_id must have 8 bytes, or none for a root")
    started_at = message.start_time_unix_nano
    ended_at = max(started_at, message.end_time_unix_nano)
    if ended_at > _LATEST:
        raise InvalidSpans("a span's time is out of range")
    return Span(
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        parent_id=message.parent_span_id.hex(),
        name=message.name,
        kind=_KINDS[message.kind] if message.kind < len(_KINDS) else _KINDS[0],
        started_at=started_at,
        ended_at=ended_at,
        status=_STATUSES.get(message.status.code, SpanStatus.UNSET),
        status_message=message.status.message,
        attributes=_texts(message.attributes),
        resource=resource,
        scope_name=scope.name,
        scope_version=scope.version,
        trace_state=message.trace_state,
        events=tuple(_event(one) for one in message.events),
        links=tuple(
            Link(one.trace_id.hex(), one.span_id.hex(), one.trace_state, _texts(one.attributes))
            for one in message.links
        ),
        encoded=message.SerializeToString(),
    )


def _event(message: trace_pb2.Span.Event) -> Event:
    return Event(min(message.time_unix_nano, _LATEST), message.name, _texts(message.attributes))


def _texts(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {one.key: _text(_plain(one.value)) for one in attributes}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [_plain(one) for one in value.array_value.values]
        case "kvlist_value":
            return {one.key: _plain(one.value) for one in value.kvlist_value.values}
        case "bytes_value":
            return b64encode(value.bytes_value).decode()
        case None:
            return None
        case kind:
            return getattr(value, kind)


def _with_base64_ids(told: Any) -> Any:
    """OTLP's JSON writes ids in hexadecimal, where protobuf's JSON expects base64."""
    for of_resource in told.get("resourceSpans", []):
        for of_scope in of_resource.get("scopeSpans", []):
            for span in of_scope.get("spans", []):
                for one in (span, *span.get("links", [])):
                    for field in _ID_FIELDS:
                        if one.get(field):
                            one[field] = b64encode(bytes.fromhex(one[field])).decode()
    return told
