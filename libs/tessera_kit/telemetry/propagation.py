"""W3C trace context in gRPC metadata and Kafka headers, leaner than the general propagator."""

from __future__ import annotations

import random
from collections.abc import Iterable

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

__all__ = [
    "context_from_traceparent",
    "current_trace_id",
    "current_traceparent",
    "new_traceparent",
    "parse_traceparent",
    "recorded_cause",
    "traceparent_of",
]

_RECORDED = frozenset(b"%c" % digit for digit in b"13579bdf")
_HEXADECIMAL = frozenset("0123456789abcdef")


def parse_traceparent(header: str, tracestate: str | None = None) -> SpanContext | None:
    """Return the remote span that a `traceparent` header names; None when it is malformed."""
    # 00-<32 hex>-<16 hex>-<2 hex>; later versions may append fields.
    if len(header) < 55 or (len(header) > 55 and (header[:2] == "00" or header[55] != "-")):
        return None
    version, trace_id, span_id, flags = header[:2], header[3:35], header[36:52], header[53:55]
    if header[2] + header[35] + header[52] != "---" or version == "ff":
        return None
    if not _HEXADECIMAL.issuperset(version + trace_id + span_id + flags):
        return None
    context = SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16) & TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )
    return context if context.is_valid else None


def traceparent_of(context: SpanContext) -> str:
    """Return the header that names a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def current_traceparent() -> str | None:
    """Return the header that names the current span; None when there is none."""
    context = trace.get_current_span().get_span_context()
    return traceparent_of(context) if context.trace_id else None


def current_trace_id() -> str | None:
    """Return the current trace's id as 32 hexadecimal digits; None when there is none."""
    trace_id = trace.get_current_span().get_span_context().trace_id
    return f"{trace_id:032x}" if trace_id else None


def new_traceparent(*, sampled: bool) -> str:
    """Return the header of a trace that begins here without a span of its own."""
    return traceparent_of(new_span_context(sampled=sampled))


def new_span_context(*, sampled: bool) -> SpanContext:
    """Return the identity of a new span in a new trace."""
    # Identifiers, not secrets: the fast generator is enough (the SDK uses the same one).
    return SpanContext(
        random.getrandbits(128) or 1,
        random.getrandbits(64) or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT),
    )


def recorded_cause(headers: Iterable[tuple[str, bytes]]) -> SpanContext | None:
    """Return the recorded span that a message was made in; None where none was recorded."""
    for key, value in headers:
        # The flags' last digit is odd where the span is recorded: the others cost no parsing.
        if key == "traceparent":
            return parse_traceparent(value.decode("latin-1")) if value[-1:] in _RECORDED else None
    return None


def context_from_traceparent(headers: Iterable[tuple[str, str | bytes]]) -> contexts.Context | None:
    """Return the context of the first well-formed `traceparent` header; None without one."""
    parent, state = None, None
    for key, value in headers:
        if key == "traceparent":
            parent = value if isinstance(value, str) else value.decode("latin-1")
        elif key == "tracestate":
            state = value if isinstance(value, str) else value.decode("latin-1")
    if parent is None:
        return None
    context = parse_traceparent(parent, state)
    if context is None:
        return None
    return trace.set_span_in_context(NonRecordingSpan(context))
