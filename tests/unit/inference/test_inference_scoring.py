"""MLflow's scoring on the gateway: every form of rows, MLflow's casts, its errors, its client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.gateway.infer import REQUEST_ID_KEY
from tests.gateway_door import ALICE, BOB, STRANGER, GatewayDoor

PATH = "/serving-endpoints/model/invocations"
PLAIN = "/serving-endpoints/plain/invocations"
CSV = {"content-type": "text/csv; charset=utf-8"}


@pytest.fixture
def door() -> GatewayDoor:
    return GatewayDoor()


@pytest.mark.parametrize(
    "body",
    [
        {
            "dataframe_split": {
                "columns": ["n", "x"],
                "index": [0, 1],
                "data": [[1, [1, 2]], [2, [3, 4.5]]],
            }
        },
        {
            "dataframe_records": [
                {"x": [1, 2], "n": 1},
                {"n": 2.0, "x": [3, 4.5], "more": "is left out"},
            ]
        },
        {"instances": [{"x": [1, 2], "n": [1]}, {"x": [3, 4.5], "n": [2]}]},
        {"inputs": {"x": [[1, 2], [3, 4.5]], "n": [1, 2]}, "params": {"k": 3}},
    ],
)
async def test_rows_come_in_each_form(door: GatewayDoor, body: dict[str, Any]) -> None:
    answer = await door.send("POST", PATH, body | {"client_request_id": "mine"})
    assert answer.status == 200, answer.body
    told = answer.json()
    assert told["predictions"] == [{"sum": 3.0, "next": 2}, {"sum": 7.5, "next": 3}]
    assert told["served_model_name"] in ("model-1", "model-2")
    assert answer.headers["served-model-name"] == told["served_model_name"]
    (record,) = door.records
    assert answer.headers[REQUEST_ID_KEY] == record.tessera_request_id
    assert (record.client_request_id, record.status_code) == ("mine", 0)
    asked = service_pb2.ModelInferRequest.FromString(record.request)
    assert {one.name: list(one.shape) for one in asked.inputs} == {"x": [2, 2], "n": [2, 1]}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"instances": [[1, 2], [3, 4.5]]}, {}),
        ({"inputs": [[1, 2], [3, 4.5]]}, {}),
        ({"dataframe_split": {"data": [[1, 2], [3, 4.5]]}}, {}),
        ({"dataframe_records": [{"a": 1, "b": 2}, {"a": 3, "b": 4.5}]}, {}),
        (b"a,b\r\n1,2\r\n3, 4.5\r\n", CSV),
    ],
)
async def test_the_only_input_needs_no_name(
    door: GatewayDoor, body: Any, headers: dict[str, str]
) -> None:
    answer = await door.send("POST", PLAIN, body, headers=headers)
    assert answer.status == 200, answer.body
    assert answer.json()["predictions"] == [3.0, 7.5]


async def test_missing_numbers_are_nan_and_answers_that_json_lacks_are_null(
    door: GatewayDoor,
) -> None:
    answer = await door.send("POST", PLAIN, b"a,b\n1,\nNaN,2\n1e0,+2", headers=CSV)
    assert answer.json()["predictions"] == [None, None, 3.0]
    (record,) = door.records
    asked = service_pb2.ModelInferRequest.FromString(record.request)
    assert np.isnan(np.frombuffer(asked.raw_input_contents[0], "<f4")).sum() == 2


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"{", {}, "not JSON"),
        ({}, {}, "exactly one of"),
        ({"inputs": [], "instances": []}, {}, "exactly one of"),
        ({"inputs": 3}, {}, "inputs"),
        ({"instances": [1, {}]}, {}, "inputs"),
        ({"inputs": [[1, 2]]}, {}, "need names"),
        ({"inputs": {"x": [[1, 2]], "n": [1.5]}}, {}, "INT64 and holds a fraction"),
        ({"inputs": {"x": [[1, 2]], "n": ["1"]}}, {}, "holds a text"),
        ({"inputs": {"x": [[1, 2]], "n": [True]}}, {}, "true or false"),
        ({"inputs": {"x": [[1, 2]], "n": [None]}}, {}, "holds null"),
        ({"inputs": {"x": [[1, 2]], "n": [2**63]}}, {}, "beyond INT64"),
        ({"inputs": {"x": [[1, 2]], "n": [1, 2]}}, {}, "items"),
        ({"inputs": {"x": [[1, 2]]}}, {}, "inputs 'n': is missing"),
        ({"dataframe_split": {"columns": ["n"], "data": [[1, 2]]}}, {}, "one per column"),
        ({"dataframe_split": {"columns": ["n", "n"], "data": []}}, {}, "twice"),
        ({"dataframe_records": {"x": 1}}, {}, "list of objects"),
        ({"dataframe_records": []}, {}, "is missing"),
        ({"inputs": {"x": [[1, 2]], "n": [1]}, "client_request_id": 3}, {}, "client_request_id"),
        ({"inputs": {"x": [[1, 2]], "n": [1]}, "params": []}, {}, "params"),
        (b"n,x\n1", CSV, "one per column"),
        (b"", CSV, "column names"),
        (b"\xff", CSV, "not CSV"),
        (b'n\n"1', CSV, "not CSV"),
        (b"n\none", CSV, "holds 'one'"),
        (b"n\n" + b"9" * 5000, CSV, "INT64"),
    ],
)
async def test_what_is_wrong_is_told_as_mlflow_does_and_recorded(
    door: GatewayDoor, body: Any, headers: dict[str, str], says: str
) -> None:
    answer = await door.send("POST", PATH, body, headers=headers)
    assert answer.status == 400, answer.body
    told = answer.json()
    assert told["error_code"] == "BAD_REQUEST"
    assert says in told["message"]
    (record,) = door.records
    assert (record.status_code, record.status_message) == (3, told["message"])


async def test_refusals_have_mlflows_codes(door: GatewayDoor) -> None:
    body = {"inputs": [[1, 2]]}
    for path, token, headers, status, code in (
        (PLAIN, "", {}, 401, "UNAUTHENTICATED"),
        (PLAIN, BOB, {}, 403, "PERMISSION_DENIED"),
        (PLAIN, STRANGER, {}, 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/endpoints/none/invocations", ALICE, {}, 404, "RESOURCE_DOES_NOT_EXIST"),
        (PLAIN, ALICE, {"content-type": "application/x-parquet"}, 415, "BAD_REQUEST"),
        (PLAIN, ALICE, {"content-encoding": "br"}, 400, "BAD_REQUEST"),
    ):
        answer = await door.send("POST", path, body, token=token, headers=headers)
        assert (answer.status, answer.json()["error_code"]) == (status, code), answer.body
    assert sorted(record.status_code for record in door.records) == [3, 3, 5, 7, 16]


async def test_health_is_told(door: GatewayDoor) -> None:
    for path, token, status in (
        ("/ping", "", 200),
        ("/health", "", 200),
        ("/version", "", 200),
        ("/serving-endpoints/model/ping", ALICE, 200),
        ("/serving-endpoints/later/health", ALICE, 404),
        ("/serving-endpoints/model/ping", "", 401),
        ("/serving-endpoints/model/ping", STRANGER, 404),
        ("/serving-endpoints/model/version", ALICE, 200),
        ("/serving-endpoints/model/version", "", 401),
    ):
        assert (await door.send("GET", path, token=token)).status == status


# Importing MLflow warns of its own types and of its dependencies.
@pytest.mark.filterwarnings("ignore")
async def test_mlflows_clients_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", ALICE)
    door = GatewayDoor()

    def ask(address: str) -> tuple[Any, Any]:
        from mlflow.deployments import get_deploy_client
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient

        client = get_deploy_client(f"http://{address}")
        asked = client.predict(endpoint="plain", inputs={"inputs": [[1, 2]]})
        port = address.rpartition(":")[2]
        scoring = ScoringServerClient(f"me:{ALICE}@127.0.0.1", f"{port}/serving-endpoints/plain")
        scoring.ping()
        return asked, json.loads(scoring.invoke(np.array([[1.0, 2.5]])).to_json())

    async with door.bound() as address:
        deployments, scored = await asyncio.to_thread(ask, address)
    assert deployments == {"predictions": [3.0], "served_model_name": "model-1"}
    assert scored["predictions"] == [3.5]
    assert [record.status_code for record in door.records] == [0, 0]
