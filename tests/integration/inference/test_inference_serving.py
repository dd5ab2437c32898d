"""An endpoint from a model version to its rows, through the services' own doors."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http.aio as triton_http
from aiokafka import AIOKafkaConsumer
from tritonclient.utils import InferenceServerException

from tessera.catalog.v1 import authorization_service_pb2, lineage_service_pb2, securable_pb2
from tessera.catalog.v1.lineage_service_pb2_grpc import LineageServiceStub
from tessera.events.v1 import inference_events_pb2
from tessera.inference.v1 import endpoint_pb2, inference_service_pb2
from tessera_kit.bus.envelope import Record
from tessera_kit.bus.producer import EventProducer
from tessera_kit.config import ClickHouseConfig, KafkaConfig
from tessera_kit.ids import new_id
from tessera_kit.store.clickhouse import ClickHouse, qualified_name
from tests.helpers import eventually, unique_name
from tests.integration.inference.every_door import asked_by_every_door
from tests.integration.inference.models import exported
from tests.integration.inference.requests import expected, inputs
from tests.integration.inference.serving import Serving

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(300)

X = [[0.1, 0.2, 0.3, 0.4]]


async def rows_of(
    serving: Serving, name: str, request_ids: Sequence[str], timeout: float = 60
) -> list[dict[str, Any]]:
    """The rows of these requests, oldest first, once they are all there."""
    endpoint = await serving.endpoints.GetEndpoint(
        inference_service_pb2.GetEndpointRequest(name=name)
    )
    table = endpoint.endpoint.inference_table_full_name
    async with ClickHouse(
        ClickHouseConfig.from_env(serving.stack.environment, database="default")
    ) as client:
        found = await client.query(
            "SELECT database, name FROM system.tables WHERE name = {name:String} "
            "AND database LIKE {database:String}",
            {
                "name": table.rpartition(".")[2],
                "database": f"%{serving.schema.partition('.')[0]}%",
            },
        )
        ((database, physical),) = found.rows

        async def complete() -> list[dict[str, Any]] | None:
            rows = await client.query(
                f"SELECT * FROM {qualified_name(database, physical)} ORDER BY tessera_request_id"
            )
            wanted = set(request_ids)
            rows_found = [row for row in rows.dicts() if row["tessera_request_id"] in wanted]
            return rows_found if len(rows_found) >= len(wanted) else None

        rows: list[dict[str, Any]] = await eventually(complete, timeout=timeout, interval=0.2)
        return rows


def request_id(result: Any) -> str:
    """The platform's id of an answered request."""
    identifier: str = result.get_response().parameters["tessera_request_id"].string_param
    return identifier


@pytest.fixture(scope="module")
async def single(serving: Serving) -> str:
    """An endpoint with one version."""
    return await serving.create([await serving.add_version()])


@pytest.fixture(scope="module")
async def endpoint(serving: Serving) -> str:
    """An endpoint with two versions at 80 and 20 percent."""
    first = await serving.add_version()
    second = await serving.add_version(exported(1.0))
    return await serving.create([first, second], [80, 20])


async def ask(serving: Serving, name: str, x: Any = X, **named: Any) -> Any:
    carriers = ["UA"] * len(x)
    return await serving.gateway.infer(name, inputs(x, carriers), headers=serving.headers, **named)


async def test_an_unmodified_client_gets_predictions(serving: Serving, endpoint: str) -> None:
    answers = set()
    for _ in range(10):
        result = await ask(serving, endpoint, request_id="mine")
        response = result.get_response()
        assert (response.model_name, response.id) == (endpoint, "mine")
        answers.add((response.model_version, round(float(result.as_numpy("probability")[0, 0]), 5)))
    versions = sorted(version for version, _ in answers)
    biases = dict(zip(versions, (0.0, 1.0), strict=True))
    assert answers == {
        (version, round(float(expected(X, ["UA"], bias)[0, 0]), 5))
        for version, bias in biases.items()
    }


async def test_many_at_once_get_their_own_answers_and_rows(serving: Serving, single: str) -> None:
    rows = [[n / 7, n % 5, -n / 3, 1.0] for n in range(240)]
    carriers = [("UA", "DL", "??")[n % 3] for n in range(240)]

    async def one(n: int) -> Any:
        named = {"request_id": f"caller {n}", "headers": serving.headers}
        return await serving.gateway.infer(single, inputs([rows[n]], [carriers[n]]), **named)

    await one(0)
    results = await asyncio.gather(*(one(n) for n in range(240)))
    for n, result in enumerate(results):
        assert result.get_response().id == f"caller {n}"
        np.testing.assert_allclose(
            result.as_numpy("probability"), expected([rows[n]], [carriers[n]]), rtol=1e-5
        )
    told = await serving.gateway.get_inference_statistics(single, headers=serving.headers)
    assert told.model_stats[0].inference_stats.success.count >= 240  # Those of the callers.
    ids = [request_id(result) for result in results]
    found = await rows_of(serving, single, ids)
    assert {row["client_request_id"] for row in found} == {f"caller {n}" for n in range(240)}


async def test_the_synchronous_client_works_too(serving: Serving, endpoint: str) -> None:
    def talk() -> None:
        target = serving.stack.environment["TESSERA_GATEWAY_TARGET"]
        with triton.InferenceServerClient(target) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(endpoint, headers=serving.headers)
            assert not client.is_model_ready("nowhere", headers=serving.headers)
            metadata = client.get_model_metadata(endpoint, headers=serving.headers)
            assert metadata.name == endpoint
            assert len(metadata.versions) == 2
            assert [tensor.name for tensor in metadata.inputs] == ["x", "carrier", "flown_at"]
            result = client.infer(endpoint, inputs(X, ["AA"]), headers=serving.headers)
            assert result.as_numpy("probability").shape == (1, 1)

    await asyncio.to_thread(talk)


async def test_the_http_door_answers_and_keeps_rows_alike(serving: Serving, single: str) -> None:
    url = serving.stack.urls["gateway_http"]
    x = triton_http.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.array(X, np.float32))
    carrier = triton_http.InferInput("carrier", [1, 1], "BYTES")
    carrier.set_data_from_numpy(np.array([["UA"]], np.object_), binary_data=False)
    async with triton_http.InferenceServerClient(url.removeprefix("http://")) as client:
        result = await client.infer(single, [x, carrier], headers=serving.headers)
    np.testing.assert_allclose(result.as_numpy("probability"), expected(X, ["UA"]), rtol=1e-5)
    by_triton = result.get_response()["parameters"]["tessera_request_id"]

    def score(value: Any) -> tuple[int, Any, str]:
        request = urllib.request.Request(  # noqa: S310 - the address is the stack's own
            f"{url}/serving-endpoints/{single}/invocations",
            json.dumps({"dataframe_records": [{"x": value, "carrier": "UA"}]}).encode(),
            {**serving.headers, "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - likewise
                return answer.status, json.load(answer), answer.headers["tessera-request-id"]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), error.headers["tessera-request-id"]

    status, told, scored = await asyncio.to_thread(score, X[0])
    assert status == 200, told
    np.testing.assert_allclose(told["predictions"], expected(X, ["UA"])[:, 0], rtol=1e-5)
    status, told, refused = await asyncio.to_thread(score, [1, "2", 3, 4])
    assert (status, told["error_code"]) == (400, "BAD_REQUEST")
    rows = {
        row["tessera_request_id"]: row
        for row in await rows_of(serving, single, [by_triton, scored, refused])
    }
    assert [rows[one]["status_code"] for one in (by_triton, scored, refused)] == [0, 0, 3]
    assert rows[by_triton]["inputs"] == rows[scored]["inputs"]
    assert rows[refused]["logging_error_codes"] == ["REQUEST_NOT_DECODED"]


async def test_every_request_has_a_readable_row(serving: Serving, single: str) -> None:
    carriers = ["UA", "??"]
    before = await serving.statistics(single)
    result = await serving.gateway.infer(
        single,
        inputs([*X, *X], carriers, flown_at=["2013-04-01", "2013-04-02"]),
        headers=serving.headers,
        request_id="mine",
    )
    (row,) = await rows_of(serving, single, [request_id(result)])
    assert (row["client_request_id"], row["status_code"]) == ("mine", 0)
    found = json.loads(row["inputs"])
    assert found["carrier"] == carriers
    assert found["flown_at"] == ["2013-04-01", "2013-04-02"]
    np.testing.assert_allclose(found["x"], [*X, *X], rtol=1e-6)
    outputs = json.loads(row["outputs"])
    np.testing.assert_allclose(
        outputs["probability"], result.as_numpy("probability").ravel(), rtol=1e-6
    )
    assert row["route"] == "PRIMARY"
    # Each tensor is a typed column too: one item per row of the request.
    assert row["input_carrier"] == carriers
    np.testing.assert_allclose(row["input_x"], [*X, *X], rtol=1e-6)
    np.testing.assert_allclose(
        row["output_probability"], result.as_numpy("probability").ravel(), rtol=1e-6
    )
    assert row["request_date"] == row["request_time"].date()
    assert row["request_time"] <= row["response_time"] <= row["ingested_at"]
    with pytest.raises(InferenceServerException, match="carrier"):
        await serving.gateway.infer(single, inputs(X, ["UA"])[:1], headers=serving.headers)
    with pytest.raises(InferenceServerException, match="authorization"):
        await serving.gateway.infer(single, inputs(X, ["UA"]))

    async def counted() -> bool:
        counts = await serving.statistics(single)
        assert counts.row_count == counts.distinct_request_count
        return bool(
            counts.row_count - before.row_count == 3
            and counts.error_count - before.error_count == 2
        )

    await eventually(counted, timeout=60)


async def test_traffic_is_split_exactly_and_moves_at_once(serving: Serving, endpoint: str) -> None:
    async def versions(count: int) -> Counter[str]:
        results = await asyncio.gather(*(ask(serving, endpoint) for _ in range(count)))
        return Counter(result.get_response().model_version for result in results)

    async def move(first: int, second: int) -> None:
        names = [
            entity.name
            for entity in (
                await serving.endpoints.GetEndpoint(
                    inference_service_pb2.GetEndpointRequest(name=endpoint)
                )
            ).endpoint.config.served_entities
        ]
        await serving.endpoints.UpdateTraffic(
            inference_service_pb2.UpdateTrafficRequest(
                name=endpoint,
                traffic_percent=dict(zip(names, (first, second), strict=True)),
            )
        )

    first, second = sorted(await versions(100))
    await move(75, 25)
    assert await versions(100) == {first: 75, second: 25}
    await move(0, 100)
    assert await versions(20) == {second: 20}
    await move(80, 20)


async def test_swaps_under_load_fail_nothing(serving: Serving) -> None:
    versions = [await serving.add_version(), await serving.add_version(exported(1.0))]
    name = await serving.create(versions[:1])
    answered: list[str] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            answered.append((await ask(serving, name)).get_response().model_version)

    workers = [asyncio.create_task(load()) for _ in range(4)]
    await serving.endpoints.UpdateEndpointConfig(
        inference_service_pb2.UpdateEndpointConfigRequest(
            name=name, config=serving.config(versions[1:], [100])
        )
    )
    endpoint = await serving.settled(name)
    assert endpoint.update_state == endpoint_pb2.UPDATE_STATE_NOT_UPDATING
    before = len(answered)
    await eventually(lambda: len(answered) > before + 20, timeout=30)
    done.set()
    await asyncio.gather(*workers)
    assert answered[-1] == str(versions[1])
    assert set(answered) == {str(version) for version in versions}
    await serving.endpoints.DeleteEndpoint(inference_service_pb2.DeleteEndpointRequest(name=name))
    with pytest.raises(InferenceServerException, match="there is no endpoint"):
        await ask(serving, name)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await serving.statistics(name)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_update_that_fails_leaves_the_old_one(serving: Serving, single: str) -> None:
    good = int((await ask(serving, single)).get_response().model_version)
    wrong = await serving.add_version(
        exported(), outputs=[{"name": "probability", "datatype": "FP32", "shape": [-1, 1, 1]}]
    )
    unsafe = await serving.add_version(b"\x80\x04 no archive")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await serving.endpoints.UpdateEndpointConfig(
            inference_service_pb2.UpdateEndpointConfigRequest(
                name=single, config=serving.config([good, wrong], [50, 50])
            )
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for version, words in ((wrong, "the signature says"), (unsafe, "not an archive")):
        await serving.endpoints.UpdateEndpointConfig(
            inference_service_pb2.UpdateEndpointConfigRequest(
                name=single, config=serving.config([version], [100])
            )
        )
        endpoint = await serving.settled(single)
        assert endpoint.update_state == endpoint_pb2.UPDATE_STATE_FAILED
        assert words in endpoint.update_message
        assert endpoint.config.served_entities[0].model_version == good
        assert (await ask(serving, single)).get_response().model_version == str(good)


async def test_grants_decide_who_may_ask(serving: Serving, endpoint: str) -> None:
    user = unique_name("user")
    token = await serving.add_user(user)
    headers = {"authorization": f"Bearer {token}"}
    with pytest.raises(InferenceServerException, match="EXECUTE"):
        await serving.gateway.infer(endpoint, inputs(X, ["UA"]), headers=headers)
    grant = authorization_service_pb2.Grant(
        principal=user, privilege=securable_pb2.PRIVILEGE_EXECUTE
    )
    reference = securable_pb2.SecurableReference(
        type=securable_pb2.SECURABLE_TYPE_ENDPOINT, full_name=endpoint
    )
    await serving.authorization.UpdateGrants(
        authorization_service_pb2.UpdateGrantsRequest(securable=reference, add=[grant])
    )

    async with asked_by_every_door(serving, endpoint, token, X) as doors:

        async def let_in() -> list[str]:
            return [name for name, ask in doors.items() if await ask()]

        async def all_are() -> bool:
            return await let_in() == list(doors)

        await eventually(all_are, timeout=30)
        began = time.monotonic()
        await serving.authorization.UpdateGrants(
            authorization_service_pb2.UpdateGrantsRequest(securable=reference, remove=[grant])
        )

        async def nobody_is() -> bool:
            return not await let_in()

        # The gateway would keep its answer for 30 s, were it not told.
        await eventually(nobody_is, timeout=15, interval=0.02)
        _log.info("refused %.3f s after the grant was taken back", time.monotonic() - began)


async def test_lineage_leads_from_the_version_to_the_table(serving: Serving, endpoint: str) -> None:
    stub: Any = LineageServiceStub(serving.catalog)
    node = lineage_service_pb2.LineageNode(
        type=lineage_service_pb2.LINEAGE_NODE_TYPE_ENDPOINT, name=endpoint
    )

    async def edges() -> set[tuple[str, str]]:
        found = await stub.GetLineage(
            lineage_service_pb2.GetLineageRequest(
                node=node, direction=lineage_service_pb2.LINEAGE_DIRECTION_BOTH
            )
        )
        return {(edge.source.name, edge.target.name) for edge in found.edges}

    served = await serving.endpoints.GetEndpoint(
        inference_service_pb2.GetEndpointRequest(name=endpoint)
    )
    wanted = {
        *(
            (f"{serving.model}/{entity.model_version}", endpoint)
            for entity in served.endpoint.config.served_entities
        ),
        (endpoint, f"{serving.schema}.{endpoint}_payload"),
    }

    async def complete() -> bool:
        return wanted <= await edges()

    await eventually(complete, timeout=60)


async def test_strangers_tell_payloads_and_bad_ones_are_set_aside(
    serving: Serving, single: str
) -> None:
    kafka = KafkaConfig.from_env(serving.stack.environment)
    topic = "tessera.inference.payload.v1"
    good, bad = new_id(), new_id()

    def record(identifier: str, request: str) -> Record:
        body = {
            "tesseraRequestId": identifier,
            "endpoint": single,
            "requestTime": "2026-11-23T07:00:00Z",
            "encoding": "PAYLOAD_ENCODING_JSON",
            "request": base64.b64encode(request.encode()).decode(),
        }
        headers = (
            ("ce_specversion", b"1.0"),
            ("ce_id", identifier.encode()),
            ("ce_type", b"tessera.events.v1.PayloadRecord"),
            ("ce_source", b"elsewhere"),
            ("content-type", b"application/json"),
        )
        return Record(topic, identifier.encode(), json.dumps(body).encode(), headers)

    async with EventProducer(kafka) as producer:
        await producer.publish_records(
            [record(bad, '{"inputs": 3}'), record(good, '{"inputs": {"x": [1.5]}}')] * 2
        )
    (row,) = await rows_of(serving, single, [good])
    assert json.loads(row["inputs"]) == {"x": [1.5]}
    consumer = AIOKafkaConsumer(
        f"{topic}.dead-letter",
        bootstrap_servers=kafka.bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            async for message in consumer:
                if message.key == bad.encode():
                    reason = dict(message.headers)["dead_letter_message"].decode()
                    break
    finally:
        await consumer.stop()
    assert reason.startswith("request must be")


async def test_rows_that_were_written_are_told(serving: Serving, single: str) -> None:
    identifier = request_id(await ask(serving, single))
    consumer = AIOKafkaConsumer(
        "tessera.inference.rows.v1",
        bootstrap_servers=KafkaConfig.from_env(serving.stack.environment).bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            async for message in consumer:
                told = inference_events_pb2.InferenceRowsWritten.FromString(message.value)
                if told.first_request_id <= identifier <= told.last_request_id:
                    break
    finally:
        await consumer.stop()
    assert (told.endpoint, message.key) == (single, single.encode())
    assert told.table_full_name == f"{serving.schema}.{single}_payload"
