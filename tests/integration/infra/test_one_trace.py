"""A request, its record on the bus, its row and its spans belong to one trace."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from devstack import Stack
from tessera_kit.telemetry import names
from tessera_kit.telemetry.propagation import parse_traceparent
from tests.helpers import eventually
from tests.integration.infra.life import Life

pytestmark = pytest.mark.timeout(300)

SERVED = "inference.GRPCInferenceService/ModelInfer"
STEPS = {
    names.SPAN_MODEL_INFER: "inference",
    names.SPAN_SPOOL_APPEND: "inference",
    names.SPAN_TABLE_INSERT: "inference-sink",
}
"""The spans inside the request's own, by the process that tells them."""
TOPIC = "tessera.inference.payload.v1"


async def test_gateway_bus_row_and_spans_share_the_trace(
    platform: Stack, life: Life, clickhouse: Any
) -> None:
    found = await clickhouse.query(
        f"SELECT database, name FROM system.tables WHERE name = '{life.served.endpoint}_payload'"
    )
    ((database, table),) = found.result_rows
    found = await clickhouse.query(
        f"SELECT tessera_request_id FROM `{database}`.`{table}` WHERE trace_id = '{life.trace_id}'"
    )
    ((request_id,),) = found.result_rows

    header = await traceparent_of(platform.environment["TESSERA_KAFKA_BOOTSTRAP"], request_id)
    context = parse_traceparent(header)
    assert context is not None
    assert f"{context.trace_id:032x}" == life.trace_id

    async def spans() -> dict[str, tuple[str, str, str]] | None:
        sql = (
            "SELECT SpanName, ServiceName, SpanId, ParentSpanId FROM otel_traces "
            f"WHERE TraceId = '{life.trace_id}'"
        )
        found = {row[0]: row[1:] for row in (await clickhouse.query(sql)).result_rows}
        return found if {SERVED, *STEPS} <= set(found) else None

    # Spans are written a second after they ended.
    found = await eventually(spans, timeout=15)
    span_id = f"{context.span_id:016x}"
    assert found[SERVED][:2] == ("inference", span_id)
    for name, service in STEPS.items():
        assert (found[name][0], found[name][2]) == (service, span_id), name


async def traceparent_of(bootstrap: str, request_id: str) -> str:
    """The header of the payload record of a request."""
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    try:
        async for record in consumer:
            headers = dict(record.headers)
            if headers.get("ce_id") == request_id.encode():
                return str(headers["traceparent"].decode())
    finally:
        await consumer.stop()
    raise AssertionError("the topic ended")
