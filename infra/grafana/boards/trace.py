"""One trace: its spans, what was logged in it, and how long each process took."""

from __future__ import annotations

from typing import Final

from infra.grafana.boards.model import (
    Column,
    Dashboard,
    Kind,
    Panel,
    Row,
    Shape,
    Sql,
    TextVariable,
)

__all__ = ["TRACE"]

TRACE: Final = Dashboard(
    uid="tessera-trace",
    title="Trace",
    description="A request and all that it caused, in every process; other pages link here.",
    span="7d",
    refresh="",
    variables=(TextVariable("trace", "Trace id"),),
    rows=(
        Row(
            "Trace",
            (
                Panel(
                    "Spans",
                    "Calls and messages of the trace that were recorded, on one time axis.",
                    (
                        Sql(
                            """
                            SELECT
                                TraceId AS traceID,
                                SpanId AS spanID,
                                ParentSpanId AS parentSpanID,
                                ServiceName AS serviceName,
                                SpanName AS operationName,
                                Timestamp AS startTime,
                                Duration / 1e6 AS duration,
                                if(StatusCode = 'Error', 2, 0) AS statusCode,
                                arrayMap(
                                    name -> map('key', name, 'value', SpanAttributes[name]),
                                    mapKeys(SpanAttributes)
                                ) AS tags,
                                arrayMap(
                                    name -> map('key', name, 'value', ResourceAttributes[name]),
                                    mapKeys(ResourceAttributes)
                                ) AS serviceTags
                            FROM otel_traces
                            WHERE TraceId = ${trace:sqlstring}
                            ORDER BY startTime
                            LIMIT 1000
                            """,
                            Shape.TRACE,
                        ),
                    ),
                    kind=Kind.TRACE,
                    width=24,
                    height=14,
                ),
                Panel(
                    "Logged in this trace",
                    "Log records that were written while the trace's work was done.",
                    (
                        Sql(
                            """
                            SELECT
                                Timestamp AS timestamp,
                                concat(ServiceName, ': ', Body) AS body,
                                SeverityText AS level,
                                ScopeName AS logger
                            FROM otel_logs
                            WHERE TraceId = ${trace:sqlstring}
                            ORDER BY Timestamp DESC
                            LIMIT 500
                            """,
                            Shape.LOGS,
                        ),
                    ),
                    kind=Kind.LOGS,
                    width=16,
                    height=10,
                ),
                Panel(
                    "By process",
                    "How many spans each process has in the trace, and its longest.",
                    (
                        Sql(
                            """
                            SELECT
                                ServiceName AS service,
                                count() AS spans,
                                max(Duration) / 1e9 AS longest
                            FROM otel_traces
                            WHERE TraceId = ${trace:sqlstring}
                            GROUP BY service
                            ORDER BY longest DESC
                            """
                        ),
                    ),
                    kind=Kind.TABLE,
                    columns=(Column("longest", "s"),),
                    width=8,
                    height=10,
                ),
            ),
        ),
    ),
)
