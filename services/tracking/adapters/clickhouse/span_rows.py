"""Spans as rows of `otel_traces`."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.tracking.domain.traces.span import Event, Link, Span

__all__ = ["COLUMNS", "SELECTED", "row_of", "span_of"]

COLUMNS: Final = (
    "Timestamp",
    "TraceId",
    "SpanId",
    "ParentSpanId",
    "TraceState",
    "SpanName",
    "SpanKind",
    "ServiceName",
    "ResourceAttributes",
    "ScopeName",
    "ScopeVersion",
    "SpanAttributes",
    "Duration",
    "StatusCode",
    "StatusMessage",
    "Events.Timestamp",
    "Events.Name",
    "Events.Attributes",
    "Links.TraceId",
    "Links.SpanId",
    "Links.TraceState",
    "Links.Attributes",
    "ExperimentId",
    "Message",
)
_READ_AS: Final = {
    # As numbers: the driver's times end at microseconds.
    "Timestamp": "toUnixTimestamp64Nano(Timestamp) AS StartedAt",
    "Events.Timestamp": "arrayMap(at -> toUnixTimestamp64Nano(at), Events.Timestamp) AS EventsAt",
    # As text: the driver takes every String for UTF-8.
    "Message": "base64Encode(Message) AS Encoded",
}
SELECTED: Final = ", ".join(_READ_AS.get(column, column) for column in COLUMNS)
"""What to select for `span_of`."""


def row_of(experiment_id: str, span: Span) -> Sequence[Any]:
    """Return a span's values, in the order of `COLUMNS`."""
    return (
        span.started_at,
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.trace_state,
        span.name,
        span.kind,
        span.resource.get("service.name", ""),
        dict(span.resource),
        span.scope_name,
        span.scope_version,
        dict(span.attributes),
        span.duration,
        span.status,
        span.status_message,
        [event.at for event in span.events],
        [event.name for event in span.events],
        [dict(event.attributes) for event in span.events],
        [link.trace_id for link in span.links],
        [link.span_id for link in span.links],
        [link.trace_state for link in span.links],
        [dict(link.attributes) for link in span.links],
        experiment_id,
        span.encoded,
    )


def span_of(row: Mapping[str, Any]) -> Span:
    """Return the span of a row of `SELECTED`, by column name."""
    started_at = row["StartedAt"]
    return Span(
        trace_id=row["TraceId"],
        span_id=row["SpanId"],
        parent_id=row["ParentSpanId"],
        name=row["SpanName"],
        kind=row["SpanKind"],
        started_at=started_at,
        ended_at=started_at + row["Duration"],
        status=row["StatusCode"],
        status_message=row["StatusMessage"],
        attributes=row["SpanAttributes"],
        resource=row["ResourceAttributes"],
        scope_name=row["ScopeName"],
        scope_version=row["ScopeVersion"],
        trace_state=row["TraceState"],
        events=tuple(
            Event(*values)
            for values in zip(
                row["EventsAt"], row["Events.Name"], row["Events.Attributes"], strict=True
            )
        ),
        links=tuple(
            Link(*values)
            for values in zip(
                row["Links.TraceId"],
                row["Links.SpanId"],
                row["Links.TraceState"],
                row["Links.Attributes"],
                strict=True,
            )
        ),
        encoded=b64decode(row["Encoded"]),
    )
