"""The rows of the serving board that read inference tables."""

from __future__ import annotations

from typing import Final

from infra.grafana.boards.model import Column, Kind, Link, Panel, Row, Shape, Sql

__all__ = ["ROWS"]

_TRACE: Final = Column(
    "trace", link=Link("Every span of this trace", "/d/tessera-trace?var-trace=${__value.raw}")
)

ROWS: Final = Row(
    "Inference table",
    (
        Panel(
            "Rows by status",
            "Rows by the gRPC status code of the answer; 0 is success.",
            (
                Sql(
                    """
                    SELECT
                        $__timeInterval(request_time) AS time,
                        concat('status ', toString(status_code)) AS series,
                        count() AS rows
                    FROM ${table}
                    WHERE $__timeFilter(request_time)
                    GROUP BY time, series
                    ORDER BY time, series
                    """,
                    Shape.TIME_SERIES,
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Rows by version",
            "Rows by the model version that answered.",
            (
                Sql(
                    """
                    SELECT
                        $__timeInterval(request_time) AS time,
                        concat('v', toString(model_version)) AS series,
                        count() AS rows
                    FROM ${table}
                    WHERE $__timeFilter(request_time)
                    GROUP BY time, series
                    ORDER BY time, series
                    """,
                    Shape.TIME_SERIES,
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Duration by version, 99th percentile",
            "Of the successful requests, from their arrival to their response.",
            (
                Sql(
                    """
                    SELECT
                        $__timeInterval(request_time) AS time,
                        concat('v', toString(model_version)) AS series,
                        quantile(0.99)(duration_ms) AS p99
                    FROM ${table}
                    WHERE $__timeFilter(request_time) AND status_code = 0
                    GROUP BY time, series
                    ORDER BY time, series
                    """,
                    Shape.TIME_SERIES,
                ),
            ),
            unit="ms",
        ),
        Panel(
            "Versions compared",
            "What each served model did in the time range.",
            (
                Sql(
                    """
                    SELECT
                        endpoint,
                        model_name AS model,
                        model_version AS version,
                        count() AS requests,
                        countIf(status_code != 0) AS failed,
                        quantileIf(0.5)(duration_ms, status_code = 0) AS p50,
                        quantileIf(0.99)(duration_ms, status_code = 0) AS p99,
                        uniqExact(requester) AS callers,
                        max(request_time) AS latest
                    FROM ${table}
                    WHERE $__timeFilter(request_time)
                    GROUP BY endpoint, model, version
                    ORDER BY endpoint, model, version
                    """
                ),
            ),
            kind=Kind.TABLE,
            columns=(Column("p50", "ms"), Column("p99", "ms"), Column("latest", "dateTimeAsIso")),
            width=16,
        ),
        Panel(
            "Callers",
            "Who asked how often.",
            (
                Sql(
                    """
                    SELECT requester AS caller, count() AS requests
                    FROM ${table}
                    WHERE $__timeFilter(request_time)
                    GROUP BY caller
                    ORDER BY requests DESC
                    LIMIT 20
                    """
                ),
            ),
            kind=Kind.TABLE,
        ),
        Panel(
            "Latest failures",
            "The last requests that did not succeed, with what their callers were told.",
            (
                Sql(
                    """
                    SELECT
                        request_time AS time,
                        endpoint,
                        model_version AS version,
                        status_code AS status,
                        status_message AS message,
                        requester AS caller,
                        duration_ms AS duration,
                        tessera_request_id AS request,
                        trace_id AS trace
                    FROM ${table}
                    WHERE $__timeFilter(request_time) AND status_code != 0
                    ORDER BY request_time DESC
                    LIMIT 50
                    """
                ),
            ),
            kind=Kind.TABLE,
            columns=(
                Column("time", "dateTimeAsIso", 180),
                Column("version", width=70),
                Column("status", width=70),
                Column("duration", "ms", 90),
                _TRACE,
            ),
            width=24,
        ),
        Panel(
            "Latest requests",
            "The last requests with what went in and what came out.",
            (
                Sql(
                    """
                    SELECT
                        request_time AS time,
                        model_version AS version,
                        inputs,
                        outputs,
                        duration_ms AS duration,
                        dateDiff('millisecond', response_time, ingested_at) AS lag,
                        tessera_request_id AS request,
                        trace_id AS trace
                    FROM ${table}
                    WHERE $__timeFilter(request_time) AND status_code = 0
                    ORDER BY request_time DESC
                    LIMIT 50
                    """
                ),
            ),
            kind=Kind.TABLE,
            columns=(
                Column("time", "dateTimeAsIso", 180),
                Column("version", width=70),
                Column("duration", "ms", 90),
                Column("lag", "ms", 90),
                _TRACE,
            ),
            width=24,
        ),
    ),
)
