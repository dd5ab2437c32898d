"""The Open Inference Protocol's REST form: right answers, specific errors, a record of each."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.errors import ModelFailed
from services.inference.gateway.infer import REQUEST_ID_KEY
from tests.gateway_door import BOB, MOST_BODY, STRANGER, GatewayDoor

INFER = "/v2/models/model/infer"


@pytest.fixture
def door() -> GatewayDoor:
    return GatewayDoor()


def asked(**changes: Any) -> dict[str, Any]:
    """A valid request of two rows."""
    return {
        "id": "mine",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]},
            {"name": "n", "datatype": "INT64", "shape": [2, 1], "data": [1, 2]},
        ],
    } | changes


def tensor(**changes: Any) -> dict[str, Any]:
    """A request whose input x is changed."""
    request = asked()
    request["inputs"][0] |= changes
    return request


async def test_json_is_answered_in_json_and_recorded(door: GatewayDoor) -> None:
    answer = await door.send("POST", INFER, asked())
    assert answer.status == 200, answer.body
    told = answer.json()
    assert (told["model_name"], told["id"]) == ("model", "mine")
    assert told["model_version"] in ("1", "2")
    assert told["outputs"] == [
        {"name": "sum", "datatype": "FP32", "shape": [2, 1], "data": [3.0, 7.5]},
        {"name": "next", "datatype": "INT64", "shape": [2, 1], "data": [2, 3]},
    ]
    (record,) = door.records
    assert told["parameters"]["tessera_request_id"] == record.tessera_request_id
    assert answer.headers[REQUEST_ID_KEY] == record.tessera_request_id
    assert (record.endpoint, record.client_request_id, record.requester) == (
        "model",
        "mine",
        "alice",
    )
    request = service_pb2.ModelInferRequest.FromString(record.request)
    assert request.model_name == "model"
    assert request.raw_input_contents[0] == np.array([1, 2, 3, 4.5], "<f4").tobytes()
    assert len(service_pb2.ModelInferResponse.FromString(record.response).outputs) == 2


async def test_binary_data_goes_both_ways(door: GatewayDoor) -> None:
    x = np.array([[1, 2], [3, 4]], "<f4").tobytes()
    head = asked(
        outputs=[{"name": "next"}, {"name": "sum", "parameters": {"binary_data": True}}],
    )
    del head["inputs"][0]["data"]
    head["inputs"][0]["parameters"] = {"binary_data_size": len(x)}
    text = json.dumps(head).encode()
    answer = await door.send(
        "POST", INFER, text + x, headers={"Inference-Header-Content-Length": str(len(text))}
    )
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    after, binary = json.loads(answer.body[:length]), answer.body[length:]
    assert after["outputs"][0]["data"] == [2, 3]
    assert after["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(binary, "<f4").tolist() == [3.0, 7.0]


async def test_a_body_may_be_the_contents_of_the_only_input(door: GatewayDoor) -> None:
    body = np.arange(6, dtype="<f4").tobytes()
    answer = await door.send(
        "POST",
        "/v2/models/plain/infer",
        body,
        headers={
            "Inference-Header-Content-Length": "0",
            "content-type": "application/octet-stream",
        },
    )
    length = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.body[length:], "<f4").tolist() == [1, 5, 9]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_bodies_may_be_compressed(door: GatewayDoor, encoding: str, pack: Any) -> None:
    body = pack(json.dumps(asked()).encode())
    answer = await door.send("POST", INFER, body, headers={"content-encoding": encoding})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"{", {}, 400, "not JSON"),
        (b"\xff", {}, 400, "not JSON"),
        (b"[]", {}, 400, "JSON object"),
        (b'{"inputs": [NaN]}', {}, 400, "not JSON"),
        (b"not packed", {"content-encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"content-encoding": "gzip"}, 400, "ends before"),
        (gzip.compress(b"{}", mtime=0) + b"x", {"content-encoding": "gzip"}, 400, "goes on"),
        (b"{}", {"content-encoding": "br"}, 400, "not known"),
        (
            gzip.compress(bytes(MOST_BODY + 1), mtime=0),
            {"content-encoding": "gzip"},
            413,
            "at most",
        ),
        (bytes(MOST_BODY + 1), {}, 413, "at most"),
        (b"{}", {"inference-header-content-length": "3"}, 400, "has 2 bytes"),
        (b"{}", {"inference-header-content-length": "-1"}, 400, "number of bytes"),
        (asked(inputs=[]), {}, 400, "'n'"),
        (asked(inputs=3), {}, 400, "inputs"),
        (asked(id=3), {}, 400, "id"),
        (asked(parameters={"sequence_id": 3}), {}, 400, "sequence_id"),
        (asked(parameters={"a": [1]}), {}, 400, "'a'"),
        (asked(outputs=[{"name": "other"}]), {}, 400, "no such output"),
        (asked(outputs=[{"name": "sum", "parameters": {"classification": 3}}]), {}, 400, "sum"),
        (asked(inputs=[*asked()["inputs"], asked()["inputs"][0]]), {}, 400, "given twice"),
        (tensor(name="other"), {}, 400, "no such input"),
        (tensor(datatype="FP64"), {}, 400, "must be FP32"),
        (tensor(datatype="FP99"), {}, 400, "datatype"),
        (tensor(shape=[2, 3]), {}, 400, "nested"),
        (tensor(shape=[4], data=[1, 2, 3, 4]), {}, 400, "must have shape"),
        (tensor(shape=[-1, 2]), {}, 400, "negative"),
        (tensor(shape=[2**62, 2**62]), {}, 400, "items"),
        (tensor(shape=[2**70, 2]), {}, 400, "64 bits"),
        (tensor(shape=[1] * 65), {}, 400, "at most 64"),
        (tensor(data=[1, 2, 3]), {}, 400, "3 elements"),
        (tensor(data=[[1, 2], [3]]), {}, 400, "nested"),
        (tensor(data=[[1, 2], [3, None]]), {}, 400, "null"),
        (tensor(data=[[1, 2], [3, "4"]]), {}, 400, "a text"),
        (tensor(data=[[1, 2], [3, 1e39]]), {}, 400, "beyond FP32"),
        (tensor(parameters={"binary_data_size": 4}), {}, 400, "both"),
        (tensor(parameters={"shared_memory_region": "a"}), {}, 400, "shared memory"),
    ],
)
async def test_what_is_wrong_is_told_and_recorded(
    door: GatewayDoor, body: Any, headers: dict[str, str], status: int, says: str
) -> None:
    answer = await door.send("POST", INFER, body, headers=headers)
    assert answer.status == status, answer.body
    assert says in answer.json()["error"]
    (record,) = door.records
    assert (record.status_code, record.requester) == (3, "alice")
    assert answer.headers[REQUEST_ID_KEY] == record.tessera_request_id
    assert record.status_message == answer.json()["error"]
    assert (await door.send("POST", INFER, asked())).status == 200


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        (INFER, "", 401, 16),
        (INFER, "wrong", 401, 16),
        (INFER, BOB, 403, 7),
        (INFER, STRANGER, 404, 5),
        ("/v2/models/model/versions/9/infer", "alice-token", 404, 5),
        ("/v2/models/later/infer", "alice-token", 400, 9),
    ],
)
async def test_who_may_not_ask_is_recorded_without_a_body(
    door: GatewayDoor, path: str, token: str, status: int, code: int
) -> None:
    answer = await door.send("POST", path, asked(), token=token)
    assert answer.status == status, answer.body
    (record,) = door.records
    assert record.status_code == code
    assert (record.request == b"") == ("/versions/" not in path)


async def test_a_token_may_come_as_a_password(door: GatewayDoor) -> None:
    answer = await door.send(
        "POST",
        INFER,
        asked(),
        token="",
        headers={"authorization": "Basic YW55Ym9keTphbGljZS10b2tlbg=="},
    )
    assert answer.status == 200, answer.body


async def test_limits_and_failures_have_their_status(door: GatewayDoor) -> None:
    async def fails(_: bytes) -> bytes:
        raise ModelFailed("ValueError: no such leaf")

    door.answer = fails
    answer = await door.send("POST", INFER, asked())
    assert (answer.status, answer.json()["error"]) == (500, "ValueError: no such leaf")
    door.infer._limits = type(door.infer._limits)(max_in_flight=0)
    answer = await door.send("POST", INFER, asked())
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert [record.status_code for record in door.records] == [13, 8]


async def test_a_caller_that_leaves_stops_the_work(door: GatewayDoor) -> None:
    begun, ended, leaves = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def never(_: bytes) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    door.answer = never
    call = asyncio.create_task(door.send("POST", INFER, asked(), leaves=leaves))
    await begun.wait()
    leaves.set()
    assert (await call).status == 0
    assert ended.is_set()
    (record,) = door.records
    assert record.status_code == 1
    assert door.infer.in_flight == 0


async def test_a_request_ends_at_its_deadline() -> None:
    door = GatewayDoor(seconds=0.05)

    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    door.answer = never
    assert (await door.send("POST", INFER, asked())).status == 504
    assert [record.status_code for record in door.records] == [4]


async def test_what_can_be_asked_of_endpoints(door: GatewayDoor) -> None:
    async def get(path: str, **named: Any) -> Any:
        answer = await door.send("GET", path, **named)
        assert answer.status == 200, answer.body
        return answer.json()

    assert (await get("/v2", token=""))["name"] == "tessera"
    assert await get("/v2/health/live", token="") == {"live": True}
    assert await get("/v2/health/ready", token="") == {"ready": True}
    about = await get("/v2/models/model")
    assert about["versions"] == ["1", "2"]
    assert about["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    assert await get("/v2/models/model/versions/2/ready") == {"name": "model", "ready": True}
    config = await get("/v2/models/model/config")
    assert config["max_batch_size"] > 1
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_FP32", [2])
    await door.send("POST", "/v2/models/model/versions/2/infer", asked())
    stats = (await get("/v2/models/model/versions/2/stats"))["model_stats"]
    assert [(one["version"], one["inference_count"]) for one in stats] == [("2", 1)]
    assert len((await get("/v2/models/stats"))["model_stats"]) == 3
    for path, token, status in (
        ("/v2/models/model/versions/9/ready", "alice-token", 404),
        ("/v2/models/later/ready", "alice-token", 404),
        ("/v2/models/none", "alice-token", 404),
        ("/v2/models/model", BOB, 403),
        ("/v2/models/model", STRANGER, 404),
        ("/v2/models/model/ready", STRANGER, 404),
        ("/v2/models/model", "", 401),
        ("/v2/nothing", "", 404),
    ):
        answer = await door.send("GET", path, token=token)
        assert answer.status == status, answer.body
        if not path.endswith("ready"):
            assert answer.json()["error"]


async def test_the_index_lists_what_the_caller_may_query(door: GatewayDoor) -> None:
    found = (await door.send("POST", "/v2/repository/index")).json()
    assert [(one["name"], one["version"], one["state"]) for one in found] == [
        ("model", "1", "READY"),
        ("model", "2", "READY"),
        ("plain", "1", "READY"),
        ("later", "", "LOADING"),
    ]
    ready = (await door.send("POST", "/v2/repository/index", {"ready": True})).json()
    assert {one["state"] for one in ready} == {"READY"}
    assert (await door.send("POST", "/v2/repository/index", token=BOB)).json() == []
