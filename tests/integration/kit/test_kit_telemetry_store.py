"""Spans and logs of a process, read back from the stack's ClickHouse."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlparse

import clickhouse_connect

from devstack import Stack
from tessera_kit.config import ClickHouseConfig, TelemetryConfig
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.setup import telemetry
from tests.helpers import unique_name


async def rows(config: ClickHouseConfig, sql: str) -> list[dict[str, Any]]:
    url = urlparse(config.url)
    client = await clickhouse_connect.get_async_client(
        host=url.hostname,
        port=url.port,
        username=config.user,
        password=config.password.reveal(),
        database=config.database,
    )
    try:
        return list((await client.query(sql)).named_results())
    finally:
        await client.close()


async def test_one_trace_is_readable_with_its_logs(stack: Stack) -> None:
    config = ClickHouseConfig.from_env(stack.environment, database=unique_name("telemetry"))
    settings = TelemetryConfig(clickhouse=config, sample_ratio=1.0)
    async with telemetry(settings, "catalog", metrics=Metrics()) as started:
        assert started.tracer is not None
        with started.tracer.start_as_current_span("outer") as outer:
            outer.add_event("half way", {"percent": 50})
            with started.tracer.start_as_current_span("inner", attributes={"rows": 7}):
                logging.getLogger("test").warning("careful: 100%", extra={"tessera.job.id": "j"})
    spans = await rows(
        config,
        "SELECT *, toUnixTimestamp64Nano(Timestamp) AS nanoseconds "
        "FROM otel_traces ORDER BY SpanName",
    )
    inner, outer_row = spans
    assert inner["ParentSpanId"] == outer_row["SpanId"]
    assert inner["TraceId"] == outer_row["TraceId"]
    assert inner["SpanAttributes"] == {"rows": "7"}
    assert 0 < inner["Duration"] < outer_row["Duration"]
    assert outer_row["Events.Name"] == ["half way"]
    assert outer_row["nanoseconds"] == outer.start_time  # type: ignore[attr-defined]
    (line,) = await rows(config, "SELECT * FROM otel_logs WHERE ScopeName = 'test'")
    assert line["TraceId"] == inner["TraceId"]
    assert line["SpanId"] == inner["SpanId"]
    assert line["Body"] == "careful: 100%"
    assert line["LogAttributes"] == {"tessera.job.id": "j"}
    assert line["SeverityText"] == "WARNING"
