"""Bodies that are too large for a row, on the real stack: read by their table, gone with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from services.inference.adapters.clickhouse import ClickHousePayloads
from services.inference.adapters.memory import InMemoryEndpoints
from services.inference.domain.bodies import PayloadTable, Side, body_key
from services.inference.domain.endpoint import InferenceTable
from services.inference.handlers.body_sweep import BodySweep
from tessera.client.aio.client import AsyncClient
from tessera.client.settings import Settings
from tessera.inference.v1 import endpoint_pb2, inference_service_pb2
from tessera_kit.bus.envelope import Record
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.config import ClickHouseConfig, KafkaConfig, S3Config
from tessera_kit.errors import NotFound, PermissionDenied
from tessera_kit.ids import new_id
from tessera_kit.store.clickhouse import ClickHouse, qualified_name
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import unique_name
from tests.integration.inference.requests import inputs
from tests.integration.inference.serving import Serving
from tests.integration.inference.test_inference_serving import X, request_id, rows_of

pytestmark = pytest.mark.timeout(240)

LARGE = "x" * (5 << 20)


class Places(InMemoryEndpoints):
    """Knows of one table."""

    def __init__(self, place: PayloadTable) -> None:
        super().__init__()
        self._place = place

    async def expiring_tables(self) -> list[PayloadTable]:
        return [self._place]


@pytest.fixture(scope="module")
async def endpoint(serving: Serving) -> str:
    """An endpoint whose table keeps its rows for a day."""
    name = unique_name("endpoint").replace("_", "-")
    await serving.endpoints.CreateEndpoint(
        inference_service_pb2.CreateEndpointRequest(
            name=name,
            config=serving.config([await serving.add_version()], [100]),
            inference_table=endpoint_pb2.InferenceTableConfig(
                schema_full_name=serving.schema, retention_days=1
            ),
        )
    )
    made = await serving.settled(name)
    assert made.state == endpoint_pb2.ENDPOINT_STATE_READY, made.update_message
    return name


@pytest.fixture(scope="module")
async def large(serving: Serving, endpoint: str) -> dict[str, Any]:
    """The row of a request that is too large for it."""
    result = await serving.gateway.infer(
        endpoint, inputs(X, ["UA"], flown_at=[LARGE]), headers=serving.headers
    )
    (row,) = await rows_of(serving, endpoint, [request_id(result)])
    assert row["request"] == ""
    return row


@pytest.fixture(scope="module")
async def objects(serving: Serving) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore(S3Config.from_env(serving.stack.environment)) as store:
        yield store


def client(serving: Serving, token: str) -> AsyncClient:
    return AsyncClient(Settings.from_env({**serving.stack.environment, "TESSERA_TOKEN": token}))


async def test_a_large_body_is_read_by_whoever_may_read_the_table(
    serving: Serving, endpoint: str, large: dict[str, Any]
) -> None:
    identifier = large["tessera_request_id"]
    table = f"{serving.schema}.{endpoint}_payload"
    async with client(serving, serving.token) as admin:
        body = await admin.inference.payload(endpoint, identifier, "request")
        assert not body.is_json
        message = service_pb2.ModelInferRequest.FromString(body.data)
        # The tensors' texts lie in the raw contents, in the order of the inputs.
        assert LARGE.encode() in message.raw_input_contents[2]
        chunks = admin.inference.payload_chunks(table, identifier, "request")
        sizes = [len(chunk) async for chunk in chunks]
        assert sum(sizes) == len(body.data)
        assert max(sizes) <= 1 << 20
        small = await admin.inference.payload(table, identifier)
        assert small.is_json
        assert json.loads(small.data)["outputs"][0]["name"] == "probability"
        with pytest.raises(NotFound):
            await admin.inference.payload(table, new_id())
    token = await serving.add_user(unique_name("user"))
    async with client(serving, token) as stranger:
        with pytest.raises(PermissionDenied):
            await stranger.inference.payload(table, identifier, "request")


async def test_bodies_expire_with_their_rows(
    serving: Serving, endpoint: str, large: dict[str, Any], objects: S3ObjectStore
) -> None:
    key, old = large["request_object"], new_id()
    endpoint_id = key.split("/")[1]
    then = datetime.now(UTC) - timedelta(days=3)
    old_key = body_key(endpoint_id, then.date(), old, Side.REQUEST)
    environment = serving.stack.environment
    async with ClickHouse(ClickHouseConfig.from_env(environment, database="default")) as database:
        place = await _place(serving, database, endpoint)
        name = qualified_name(place.database, place.table)
        await database.command(f"SYSTEM STOP TTL MERGES {name}")
        await objects.put(old_key, b"an old body")
        async with EventProducer(KafkaConfig.from_env(environment)) as producer:
            await producer.publish_records([_record(endpoint, old, then, old_key)])
        await rows_of(serving, endpoint, [old])
        sweep = BodySweep(
            tables=Places(PayloadTable(endpoint_id, place, 1, endpoint)),
            reader=ClickHousePayloads(database),
            objects=objects,
            clock=SystemClock(),
            metrics=Metrics(),
            interval_seconds=60,
        )
        assert await sweep.sweep() == 0, "its row can be read"
        await database.command(f"SYSTEM START TTL MERGES {name}")
        await database.command(f"OPTIMIZE TABLE {name} FINAL")
        left = await database.query(f"SELECT tessera_request_id FROM {name}")
        assert old not in [row[0] for row in left.rows]
        assert await sweep.sweep() == 1
        assert await sweep.sweep() == 0
    kept = [info.key async for info in objects.list(f"inference-payloads/{endpoint_id}/")]
    assert kept == [key]


async def _place(serving: Serving, database: ClickHouse, endpoint: str) -> InferenceTable:
    found = await database.query(
        "SELECT database, name FROM system.tables WHERE name = {name:String}",
        {"name": f"{endpoint}_payload"},
    )
    ((schema, name),) = found.rows
    return InferenceTable(f"{serving.schema}.{endpoint}_payload", schema, name)


def _record(endpoint: str, identifier: str, at: datetime, key: str) -> Record:
    body = {
        "tesseraRequestId": identifier,
        "endpoint": endpoint,
        "requestTime": at.isoformat(),
        "encoding": "PAYLOAD_ENCODING_JSON",
        "requestObject": key,
    }
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", identifier.encode()),
        ("ce_type", b"tessera.events.v1.PayloadRecord"),
        ("ce_source", b"elsewhere"),
        ("content-type", b"application/json"),
    )
    return Record(
        "tessera.inference.payload.v1", identifier.encode(), json.dumps(body).encode(), headers
    )
