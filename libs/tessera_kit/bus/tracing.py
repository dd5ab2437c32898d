"""W3C trace context over the bus: the producer's header and the consumer's link."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["creation_link", "current_traceparent"]

_propagator = TraceContextTextMapPropagator()


def current_traceparent() -> str | None:
    """The running span as a `traceparent` header value; None outside a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def creation_link(traceparent: str | None) -> trace.Link | None:
    """A span link to the span that created a message; None without a valid context."""
    if traceparent is None:
        return None
    context = _propagator.extract({"traceparent": traceparent})
    span_context = trace.get_current_span(context).get_span_context()
    return trace.Link(span_context) if span_context.is_valid else None
