"""The rows of the platform board that read spans and logs."""

from __future__ import annotations

from typing import Final

from infra.grafana.boards.model import Column, Kind, Link, Panel, Row, Shape, Sql

__all__ = ["TRAIL"]

_SERVICES_SQL: Final = "match(ServiceName, '^(${service:pipe})$')"

TRAIL: Final = Row(
    "What went wrong lately",
    (
        Panel(
            "Warnings and errors",
            "Log records of severity WARNING and above, the latest first; open one for its trace.",
            (
                Sql(
                    f"""
                    SELECT
                        Timestamp AS timestamp,
                        concat(ServiceName, ': ', Body) AS body,
                        SeverityText AS level,
                        ServiceName AS service,
                        ScopeName AS logger,
                        TraceId AS trace_id
                    FROM otel_logs
                    WHERE $__timeFilter(TimestampTime) AND SeverityNumber >= 13
                        AND {_SERVICES_SQL}
                    ORDER BY Timestamp DESC
                    LIMIT 200
                    """,
                    Shape.LOGS,
                ),
            ),
            kind=Kind.LOGS,
            width=24,
            height=10,
        ),
        Panel(
            "Slowest spans",
            "The slowest calls and messages of the time range, of those that were recorded.",
            (
                Sql(
                    f"""
                    SELECT
                        Timestamp AS time,
                        ServiceName AS service,
                        SpanName AS span,
                        Duration / 1e9 AS duration,
                        StatusCode AS status,
                        TraceId AS trace
                    FROM otel_traces
                    WHERE $__timeFilter(Timestamp) AND {_SERVICES_SQL}
                    ORDER BY Duration DESC
                    LIMIT 50
                    """,
                ),
            ),
            kind=Kind.TABLE,
            columns=(
                Column("time", "dateTimeAsIso", 180),
                Column("service", width=120),
                Column("duration", "s", 100),
                Column("status", width=80),
                Column(
                    "trace",
                    link=Link(
                        "Every span of this trace", "/d/tessera-trace?var-trace=${__value.raw}"
                    ),
                ),
            ),
            width=16,
            height=10,
        ),
        Panel(
            "Failed spans",
            "Recorded calls and messages that failed, by service and name.",
            (
                Sql(
                    f"""
                    SELECT ServiceName AS service, SpanName AS span, count() AS failures
                    FROM otel_traces
                    WHERE $__timeFilter(Timestamp) AND StatusCode = 'Error' AND {_SERVICES_SQL}
                    GROUP BY service, span
                    ORDER BY failures DESC
                    LIMIT 50
                    """,
                ),
            ),
            kind=Kind.TABLE,
            columns=(Column("service", width=120), Column("failures", "short", 90)),
            width=8,
            height=10,
        ),
    ),
)
