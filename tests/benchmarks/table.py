"""The inference table: how late a row is, and how many rows the sink writes in a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from time import perf_counter

from devstack import Stack
from tessera import AsyncClient
from tessera.events.v1 import inference_events_pb2
from tessera_kit.ids import new_id
from tests.benchmarks.gateway import caller_of, request_of
from tests.benchmarks.load import Target, load_process
from tests.benchmarks.results import Figure, Report
from tests.e2e.world import Served

LOAD_SECONDS = 8.0
_LOADS = (("1 in flight", 1, 0), ("2,000 requests/s", 128, 2000), ("32 in flight", 32, 0))
"""Name, most requests in flight, and requests begun in a second where they are paced."""
SINK_ROWS = 20_000
_LIMIT_SECONDS = 90.0
_POLL_SECONDS = 0.05

Progress = Callable[[str], None]


async def measure(
    stack: Stack, client: AsyncClient, served: Served, report: Report, tell: Progress
) -> None:
    """Lag under a steady and under the full load, then the sink's rate on a backlog."""
    details: dict[str, object] = {}
    report.details["table"] = details
    gateway = Target(
        stack.urls["gateway"],
        request_of(served.endpoint),
        await caller_of(client, served.endpoint),
    )
    async with load_process() as load:
        await load.run(gateway, 1, 0.5)
        for name, in_flight, per_second in _LOADS:
            tell(f"table: lag at {name}")
            since = datetime.now(UTC)
            window = await load.run(gateway, in_flight, LOAD_SECONDS, per_second=per_second)
            seconds, found = await _until_written(client, served.endpoint, since, window.requests)
            lags = {
                quantile: getattr(found, f"lag_{quantile}").ToTimedelta()
                / timedelta(milliseconds=1)
                for quantile in ("p50", "p99", "max")
            }
            details[f"lag@{name}"] = {**asdict(window), **lags, "drained_seconds": seconds}
            note = f"{window.per_second:,.0f} requests/s, {window.requests:,} rows"
            for quantile in ("p50", "p99"):
                report.figures.append(
                    Figure(
                        "table",
                        f"lag {quantile}, {name}",
                        lags[quantile],
                        "ms",
                        higher_is_better=False,
                        note=note,
                    )
                )
    tell(f"table: {SINK_ROWS:,} records through the sink")
    seconds, published = await _backlog(client, served.endpoint)
    details["sink"] = {"rows": SINK_ROWS, "seconds": seconds, "published_seconds": published}
    report.figures.append(
        Figure(
            "table",
            "sink, bus to readable rows",
            SINK_ROWS / seconds,
            "rows/s",
            SINK_ROWS / published,
            "publishing them",
            note="from the first record published to the last row readable",
        )
    )


async def _backlog(client: AsyncClient, endpoint: str) -> tuple[float, float]:
    """Seconds until rows of records told all at once can be read, and until they were told."""
    # Their time lies a day back, where they are counted apart from the gateway's own.
    moment = datetime.now(UTC) - timedelta(days=1)
    template = inference_events_pb2.PayloadRecord(
        endpoint=endpoint,
        served_entity="v1",
        model_version=1,
        duration_us=700,
        request=request_of(endpoint),
        sampling_fraction=1.0,
    )
    template.request_time.FromDatetime(moment)
    records = []
    for _ in range(SINK_ROWS):
        record = inference_events_pb2.PayloadRecord()
        record.CopyFrom(template)
        record.tessera_request_id = new_id()
        records.append(record)
    before = (await client.inference.table_statistics(endpoint)).row_count
    began = perf_counter()
    await client.events.payloads(records)
    published = perf_counter() - began
    wanted = before + SINK_ROWS
    while (await client.inference.table_statistics(endpoint)).row_count < wanted:
        if perf_counter() - began > _LIMIT_SECONDS:
            raise RuntimeError(f"the sink had not written all rows after {_LIMIT_SECONDS} s")
        await asyncio.sleep(_POLL_SECONDS)
    return perf_counter() - began, published


async def _until_written(
    client: AsyncClient, endpoint: str, since: datetime, rows: int
) -> tuple[float, object]:
    """The statistics once every request of a window has its row, and how long that took."""
    began = perf_counter()
    while True:
        found = await client.inference.table_statistics(endpoint, since=since)
        seconds = perf_counter() - began
        if found.row_count >= rows:
            return seconds, found
        if seconds > _LIMIT_SECONDS:
            raise RuntimeError(f"{found.row_count} of {rows} rows after {seconds:.0f} s")
        await asyncio.sleep(_POLL_SECONDS)
