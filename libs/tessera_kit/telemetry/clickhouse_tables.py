"""Tables and rows of spans and logs in ClickHouse.

The columns are those of the OpenTelemetry Collector's ClickHouse exporter, so that dashboards and
queries made for it work here, and the Collector can take over the writing in a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_span_id, format_trace_id

__all__ = ["LOGS_TABLE", "SPANS_TABLE", "create_statements", "log_row", "span_row"]

SPANS_TABLE: Final = "otel_traces"
LOGS_TABLE: Final = "otel_logs"
_DAYS_KEPT: Final = 30
_ATTRIBUTES: Final = "Map(LowCardinality(String), String) CODEC(ZSTD(1))"

_SPANS: Final = f"""
CREATE TABLE IF NOT EXISTS {SPANS_TABLE} (
    Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    ParentSpanId String CODEC(ZSTD(1)),
    TraceState String CODEC(ZSTD(1)),
    SpanName LowCardinality(String),
    SpanKind LowCardinality(String),
    ServiceName LowCardinality(String),
    ResourceAttributes {_ATTRIBUTES},
    ScopeName String CODEC(ZSTD(1)),
    ScopeVersion String CODEC(ZSTD(1)),
    SpanAttributes {_ATTRIBUTES},
    Duration UInt64 CODEC(T64, ZSTD(1)),
    StatusCode LowCardinality(String),
    StatusMessage String CODEC(ZSTD(1)),
    Events Nested (
        Timestamp DateTime64(9),
        Name LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ),
    Links Nested (
        TraceId String,
        SpanId String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1
) ENGINE = MergeTree
PARTITION BY toDate(Timestamp)
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), Timestamp)
TTL toDateTime(Timestamp) + INTERVAL {_DAYS_KEPT} DAY
SETTINGS ttl_only_drop_parts = 1
"""

_LOGS: Final = f"""
CREATE TABLE IF NOT EXISTS {LOGS_TABLE} (
    Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)),
    TimestampTime DateTime DEFAULT toDateTime(Timestamp),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    TraceFlags UInt8,
    SeverityText LowCardinality(String),
    SeverityNumber UInt8,
    ServiceName LowCardinality(String),
    Body String CODEC(ZSTD(1)),
    ResourceSchemaUrl LowCardinality(String),
    ResourceAttributes {_ATTRIBUTES},
    ScopeSchemaUrl LowCardinality(String),
    ScopeName String CODEC(ZSTD(1)),
    ScopeVersion LowCardinality(String),
    ScopeAttributes {_ATTRIBUTES},
    LogAttributes {_ATTRIBUTES},
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_body Body TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 8
) ENGINE = MergeTree
PARTITION BY toDate(TimestampTime)
ORDER BY (ServiceName, TimestampTime, Timestamp)
TTL TimestampTime + INTERVAL {_DAYS_KEPT} DAY
SETTINGS ttl_only_drop_parts = 1
"""


def create_statements(table: str) -> Sequence[str]:
    """Return the SQL that makes the table where it is missing."""
    return {SPANS_TABLE: [_SPANS], LOGS_TABLE: [_LOGS]}[table]


def span_row(span: ReadableSpan) -> dict[str, Any]:
    """Return the row of an ended span."""
    context, started = span.get_span_context(), span.start_time or 0
    scope = span.instrumentation_scope
    return {
        "Timestamp": _seconds(started),
        "TraceId": format_trace_id(context.trace_id) if context else "",
        "SpanId": format_span_id(context.span_id) if context else "",
        "ParentSpanId": format_span_id(span.parent.span_id) if span.parent else "",
        "TraceState": context.trace_state.to_header() if context else "",
        "SpanName": span.name,
        "SpanKind": span.kind.name.capitalize(),
        "ServiceName": str(span.resource.attributes.get("service.name", "")),
        "ResourceAttributes": _texts(span.resource.attributes),
        "ScopeName": scope.name if scope else "",
        "ScopeVersion": (scope.version or "") if scope else "",
        "SpanAttributes": _texts(span.attributes),
        "Duration": max(0, (span.end_time or started) - started),
        "StatusCode": span.status.status_code.name.capitalize(),
        "StatusMessage": span.status.description or "",
        "Events.Timestamp": [_seconds(event.timestamp) for event in span.events],
        "Events.Name": [event.name for event in span.events],
        "Events.Attributes": [_texts(event.attributes) for event in span.events],
        "Links.TraceId": [format_trace_id(link.context.trace_id) for link in span.links],
        "Links.SpanId": [format_span_id(link.context.span_id) for link in span.links],
        "Links.TraceState": [link.context.trace_state.to_header() for link in span.links],
        "Links.Attributes": [_texts(link.attributes) for link in span.links],
    }


def log_row(readable: ReadableLogRecord) -> dict[str, Any]:
    """Return the row of a log record."""
    record, scope = readable.log_record, readable.instrumentation_scope
    severity = record.severity_number
    return {
        "Timestamp": _seconds(record.timestamp or record.observed_timestamp or 0),
        "TraceId": format_trace_id(record.trace_id) if record.trace_id else "",
        "SpanId": format_span_id(record.span_id) if record.span_id else "",
        "TraceFlags": int(record.trace_flags or 0),
        "SeverityText": record.severity_text or "",
        "SeverityNumber": severity.value if severity is not None else 0,
        "ServiceName": str(readable.resource.attributes.get("service.name", "")),
        "Body": str(record.body),
        "ResourceAttributes": _texts(readable.resource.attributes),
        "ScopeName": scope.name if scope else "",
        "LogAttributes": _texts(record.attributes),
    }


def _seconds(nanoseconds: int) -> str:
    # As Unix seconds: read alike whatever the server's time zone is.
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"


def _texts(attributes: Mapping[str, Any] | None) -> dict[str, str]:
    return {key: str(value) for key, value in (attributes or {}).items()}
