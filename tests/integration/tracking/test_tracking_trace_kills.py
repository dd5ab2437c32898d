"""Traces on the stack: what was acknowledged survives kill -9 of the service and of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from devstack import Stack
from tessera_kit.config import Env
from tests.helpers import eventually

WRITERS = 6


@pytest.fixture
async def door(local_stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    await local_stack.start("catalog", "tracking")
    token = Env(local_stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE").reveal()
    async with aiohttp.ClientSession(
        local_stack.urls["tracking_http"],
        headers={"authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=30),
    ) as session:
        yield session


def an_export(trace: int, spans: int) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number in range(1, spans + 1):
        scope.spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            parent_span_id=b"" if number == 1 else (1).to_bytes(8, "big"),
            name=f"step {number}",
            start_time_unix_nano=1_700_000_000_000_000_000 + number,
            end_time_unix_nano=1_700_000_001_000_000_000,
        )
    return request.SerializeToString()


async def export(door: aiohttp.ClientSession, trace: int, spans: int) -> bool:
    """Send a trace until it is acknowledged or refused for good."""
    headers = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    body = an_export(trace, spans)
    while True:
        try:
            async with door.post("/v1/traces", data=body, headers=headers) as answer:
                if answer.status == 200:
                    return True
                assert answer.status in {429, 503, 504}, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.05)


async def test_acknowledged_spans_survive_kills(
    local_stack: Stack, door: aiohttp.ClientSession
) -> None:
    acknowledged: list[int] = []
    running = True

    async def write(writer: int) -> None:
        number = 0
        while running:
            number += 1
            trace = (7 << 100) + (writer << 64) + number
            assert await export(door, trace, spans=1 + number % 3)
            acknowledged.append(trace)

    writers = [asyncio.create_task(write(number)) for number in range(WRITERS)]
    for process in ("clickhouse", "tracking"):
        before = len(acknowledged)
        await eventually(lambda seen=before: len(acknowledged) > seen + 20, 60)  # type: ignore[misc]
        local_stack.kill(process)
        await local_stack.wait_healthy(process)
    before = len(acknowledged)
    await eventually(lambda: len(acknowledged) > before + 20, 60)
    running = False
    await asyncio.gather(*writers)

    for at in range(0, len(acknowledged), 100):
        some = acknowledged[at : at + 100]
        asked = [("trace_ids", f"tr-{trace:032x}") for trace in some]
        async with door.get("/api/3.0/mlflow/traces/batchGet", params=asked) as answer:
            assert answer.status == 200, await answer.text()
            found = {
                one["trace_info"]["trace_id"]: len(one["spans"])
                for one in (await answer.json())["traces"]
            }
        expected = {f"tr-{trace:032x}": 1 + (trace & 0xFFFFFFFF) % 3 for trace in some}
        assert found == expected
