"""A span as OpenTelemetry tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Event", "Link", "Span", "SpanStatus", "otel_id_of", "span_text", "trace_id_of"]

_PREFIX: Final = "tr-"
_DIGITS: Final = frozenset("0123456789abcdef")


class SpanStatus:
    """How a span ended, in the words of the OpenTelemetry Collector's ClickHouse exporter."""

    UNSET: Final = "Unset"
    OK: Final = "Ok"
    ERROR: Final = "Error"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened during a span."""

    at: int
    """Nanoseconds since 1970."""
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that this one has to do with."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    trace_state: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One step of a trace.

    Attributes are texts, as in the table that Grafana reads: a text itself, else JSON. The message
    with its types stays whole in `encoded`.
    """

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    parent_id: str = ""
    """Empty for the root."""
    name: str
    kind: str = "Internal"
    started_at: int
    """Nanoseconds since 1970."""
    ended_at: int
    """Nanoseconds since 1970; not before it began."""
    status: str = SpanStatus.UNSET
    status_message: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    resource: Mapping[str, str] = field(default_factory=dict)
    """What produced it, as `service.name`."""
    scope_name: str = ""
    scope_version: str = ""
    trace_state: str = ""
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    encoded: bytes = b""
    """The `opentelemetry.proto.trace.v1.Span` that it came as."""

    @property
    def duration(self) -> int:
        """How long it took, in nanoseconds."""
        return self.ended_at - self.started_at


def trace_id_of(otel_id: str) -> str:
    """Return the id that MLflow gives to the trace of an OpenTelemetry trace id."""
    return _PREFIX + otel_id


def otel_id_of(trace_id: str) -> str:
    """Return the 32 digits of a trace's OpenTelemetry id; empty where it has none."""
    digits = trace_id.removeprefix(_PREFIX)
    is_otel = trace_id.startswith(_PREFIX) and len(digits) == 32 and _DIGITS.issuperset(digits)
    return digits if is_otel else ""


def span_text(span: Span) -> str:
    """Return what a search in the text of spans looks at, line by line."""
    lines = [span.name, span.status_message]
    lines += [f"{key}={value}" for key, value in span.attributes.items()]
    for event in span.events:
        lines.append(event.name)
        lines += [f"{key}={value}" for key, value in event.attributes.items()]
    return "\n".join(lines)
