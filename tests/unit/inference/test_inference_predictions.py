"""`PredictionService`: columns in and out, what is wrong with them, and one record of each call."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import service_pb2

from services.inference.convert import columns as conversion
from services.inference.domain.endpoint import EndpointConfig
from services.inference.domain.limits import RateLimit, RateScope
from services.inference.domain.settings import EndpointSettings
from services.inference.domain.signature import parse_manifest
from services.inference.domain.traffic import TrafficPolicy
from services.inference.gateway.infer import REQUEST_ID_KEY
from services.inference.sink.tensors import decode_request
from tessera.events.v1 import inference_events_pb2
from tessera.inference.v1 import prediction_pb2 as columns
from tessera.inference.v1 import prediction_service_pb2 as pb
from tests.gateway_door import (
    ALICE,
    BOB,
    MOST_BODY,
    ONE_INPUT,
    STRANGER,
    Context,
    GatewayDoor,
    Refused,
    endpoint,
)

JSON = inference_events_pb2.PAYLOAD_ENCODING_JSON


def column(name: str, kind: str, values: Any, **fields: Any) -> columns.PredictionColumn:
    made = columns.PredictionColumn(name=name, **fields)
    getattr(made, kind).values.extend(values)
    return made


def asked(*given: columns.PredictionColumn, **fields: Any) -> pb.PredictRequest:
    return pb.PredictRequest(**{"endpoint": "model", "columns": given, **fields})


X = column("x", "doubles", [1, 2, 3, 4.5])
N = column("n", "integers", [1, -2])


@pytest.fixture
def door() -> GatewayDoor:
    return GatewayDoor()


async def refused(door: GatewayDoor, request: Any, **by: Any) -> tuple[Refused, dict[str, str]]:
    """How a call is refused, with its violations by place."""
    with pytest.raises(Refused) as caught:
        await door.predict(request, **by)
    status = status_pb2.Status.FromString(caught.value.trailing["grpc-status-details-bin"])
    found: dict[str, str] = {}
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {one.field: one.description for one in bad.field_violations}
    return caught.value, found


async def test_columns_come_back_typed_with_who_answered(door: GatewayDoor) -> None:
    answer = await door.predict(
        asked(X, N, column("note", "texts", ["a", "ä"]), client_request_id="mine")
    )
    total, following = answer.columns
    assert (total.name, total.datatype, list(total.floats.values)) == ("sum", "FP32", [3.0, 7.5])
    assert (following.datatype, list(following.integers.values)) == ("INT64", [2, -1])
    assert list(total.row_shape) == []
    assert (answer.row_count, answer.client_request_id) == (2, "mine")
    assert (answer.model_name, answer.config_version) == ("main.default.model", 1)
    assert answer.served_entity == f"model-{answer.model_version}"
    (record,) = door.records
    assert record.tessera_request_id == answer.tessera_request_id
    assert (record.client_request_id, record.status_code) == ("mine", 0)
    assert record.served_entity == answer.served_entity
    sent = service_pb2.ModelInferRequest.FromString(record.request)
    assert {one.name: list(one.shape) for one in sent.inputs} == {
        "x": [2, 2],
        "n": [2, 1],
        "note": [2, 1],
    }


async def test_the_caller_chooses_version_outputs_and_parameters(door: GatewayDoor) -> None:
    parameters = {
        "flag": columns.ParameterValue(bool_value=True),
        "count": columns.ParameterValue(integer_value=-3),
        "share": columns.ParameterValue(double_value=0.5),
        "word": columns.ParameterValue(text_value="w"),
    }
    for version in (2, 1, 2):
        answer = await door.predict(
            asked(X, N, model_version=version, outputs=["next"], parameters=parameters)
        )
        assert (answer.model_version, [one.name for one in answer.columns]) == (version, ["next"])
    sent = service_pb2.ModelInferRequest.FromString(door.records[-1].request)
    told = {name: value.WhichOneof("parameter_choice") for name, value in sent.parameters.items()}
    assert told == {
        "flag": "bool_param",
        "count": "int64_param",
        "share": "double_param",
        "word": "string_param",
    }


async def test_a_sticky_key_leads_to_one_entity(door: GatewayDoor) -> None:
    made = endpoint("model", shares=(50, 50))
    assert made.config is not None
    sticky: EndpointConfig = replace(made.config, traffic=TrafficPolicy(sticky=True))
    door.routes.put(replace(made, config=sticky))
    reached = set()
    for key in map(str, range(20)):
        # The request's own key goes before the metadata's.
        entities = {
            (
                await door.predict(
                    asked(X, N, sticky_key=key), metadata=[("tessera-sticky-key", other)]
                )
            ).served_entity
            for other in ("a", "b", "c")
        }
        assert len(entities) == 1
        reached |= entities
    assert reached == {"model-1", "model-2"}


@pytest.mark.parametrize(
    ("given", "place", "says"),
    [
        ([X, N, column("y", "doubles", [1, 2])], "columns[2] 'y'", "no such input"),
        ([X, N, N], "columns[2] 'n'", "given twice"),
        ([X], "columns 'n'", "is missing"),
        ([X, column("n", "integers", [1])], "columns[1] 'n'", "1 rows while column 'x' has 2"),
        ([X, column("n", "integers", [])], "columns[1] 'n'", "no values"),
        ([X, columns.PredictionColumn(name="n")], "columns[1] 'n'", "no values"),
        ([X, column("n", "doubles", [1, 0.5])], "columns[1] 'n'", "holds a fraction"),
        ([X, column("n", "texts", ["1", "2"])], "columns[1] 'n'", "holds a text"),
        ([X, column("n", "bools", [True, False])], "columns[1] 'n'", "true or false"),
        ([X, column("n", "unsigned_integers", [1, 2**64 - 1])], "columns[1] 'n'", "beyond INT64"),
        ([column("x", "doubles", [1e300] * 4), N], "columns[0] 'x'", "beyond FP32"),
        ([column("x", "doubles", [1, 2, 3]), N], "columns[0] 'x'", "3 values"),
        ([column("x", "doubles", [1] * 4, row_shape=[-2]), N], "columns[0] 'x'", "at least 1"),
        ([column("x", "doubles", [1] * 4, datatype="FP64"), N], "columns[0] 'x'", "must be FP32"),
        ([X, N, column("note", "integers", [1, 2])], "columns[2] 'note'", "holds an integer"),
        # Told by what every request is held to.
        ([column("x", "doubles", [1] * 6, row_shape=[3]), N], "inputs[0] 'x'", "shape [any, 2]"),
        ([column("n" * 129, "integers", [1]), X], "columns[0].name", "128"),
    ],
)
async def test_what_does_not_fit_is_told_by_place_and_kept(
    door: GatewayDoor, given: list[Any], place: str, says: str
) -> None:
    error, violations = await refused(door, asked(*given, client_request_id="mine"))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert says in violations[place], violations
    (record,) = door.records
    assert (record.status_code, record.status_message) == (3, error.details)
    assert record.client_request_id == "mine"
    assert error.trailing[REQUEST_ID_KEY] == record.tessera_request_id
    if record.encoding == JSON:
        assert set(json.loads(record.request)["inputs"]) == {one.name for one in given}
    else:
        decode_request(record.request)


async def test_everything_wrong_is_told_at_once(door: GatewayDoor) -> None:
    given = [column("x", "texts", ["a", "b"], row_shape=[1]), column("y", "bools", [True])]
    _, violations = await refused(door, asked(*given))
    assert set(violations) == {"columns[0] 'x'", "columns[1] 'y'", "columns 'n'"}


async def test_a_refused_requests_values_are_in_its_row(door: GatewayDoor) -> None:
    given = [
        column("x", "doubles", [1, math.nan, 3, 4], row_shape=[2]),
        column("blob", "binaries", [b"\xffa"]),
    ]
    await refused(door, asked(*given))
    (record,) = door.records
    assert json.loads(record.request) == {
        "inputs": {"x": [[1.0, None], [3.0, 4.0]], "blob": ["\\xffa"]}
    }


async def test_requests_that_are_too_large_are_refused_and_kept(
    door: GatewayDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = asked(column("x", "floats", np.zeros(MOST_BODY // 4)), endpoint="plain")
    error, _ = await refused(door, large)
    assert (error.code, str(MOST_BODY) in error.details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        True,
    )
    monkeypatch.setattr(conversion, "MOST_VALUES", 3)
    error, _ = await refused(door, asked(X, endpoint="plain"))
    assert "at most 3 values" in error.details
    assert [record.status_code for record in door.records] == [3, 3]


async def test_who_may_not_ask_is_refused_without_the_values(door: GatewayDoor) -> None:
    for request, token, code in (
        (asked(X, N), BOB, grpc.StatusCode.PERMISSION_DENIED),
        (asked(X, N), STRANGER, grpc.StatusCode.NOT_FOUND),
        (asked(X, N), "", grpc.StatusCode.UNAUTHENTICATED),
        (asked(X, N, endpoint="later"), "alice-token", grpc.StatusCode.FAILED_PRECONDITION),
        (asked(X, N, endpoint="none"), "alice-token", grpc.StatusCode.NOT_FOUND),
        (asked(X, N, model_version=9), "alice-token", grpc.StatusCode.NOT_FOUND),
        (b"\xff", "alice-token", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        error, _ = await refused(door, request, token=token)
        assert error.code == code
    kept = [(record.endpoint, record.status_code, bool(record.request)) for record in door.records]
    # Of no endpoint, the last but one and the last, there is no table.
    assert kept == [
        ("model", 7, False),
        ("model", 5, False),
        ("model", 16, False),
        ("later", 9, False),
        ("model", 5, True),
    ]


async def test_rate_limits_and_failures_are_those_of_the_gateway(door: GatewayDoor) -> None:
    limited = replace(
        endpoint("plain", ONE_INPUT),
        settings=EndpointSettings(rate_limits=(RateLimit(RateScope.ENDPOINT, "", 3600, 1),)),
    )
    door.routes.put(limited)
    await door.predict(asked(X, endpoint="plain"))
    error, _ = await refused(door, asked(X, endpoint="plain"))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED

    async def broken(_: bytes) -> bytes:
        raise RuntimeError("secret")

    door.answer = broken
    error, _ = await refused(door, asked(X, N))
    assert (error.code, "secret" in error.details) == (grpc.StatusCode.INTERNAL, False)
    assert [record.status_code for record in door.records] == [0, 8, 13]


@pytest.mark.parametrize(
    ("datatype", "shape", "given", "back"),
    [
        ("BOOL", [-1, 1], ("bools", [True, False]), ("bools", [True, False])),
        ("INT8", [-1, 2], ("integers", [-128, 127]), ("integers", [-128, 127])),
        ("UINT8", [-1, 1], ("unsigned_integers", [0, 255]), ("integers", [0, 255])),
        ("UINT64", [-1, 1], ("unsigned_integers", [2**64 - 1]), ("unsigned_integers", [2**64 - 1])),
        ("INT64", [-1, 1], ("doubles", [2.0, -(2.0**53)]), ("integers", [2, -(2**53)])),
        ("FP16", [-1, 1], ("floats", [0.5, math.inf]), ("floats", [0.5, math.inf])),
        ("FP32", [-1, 2, 1], ("integers", [1, 2]), ("floats", [1.0, 2.0])),
        ("FP64", [-1, 1], ("doubles", [0.1]), ("doubles", [0.1])),
        ("BYTES", [-1, 1], ("texts", ["ä", ""]), ("texts", ["ä", ""])),
        ("BYTES", [-1, 1], ("binaries", [b"\xff", b"a"]), ("binaries", [b"\xff", b"a"])),
    ],
)
def test_values_keep_what_they_are(
    datatype: str, shape: list[int], given: tuple[str, Any], back: tuple[str, Any]
) -> None:
    signature = parse_manifest(
        json.dumps(
            {
                "flavor": "onnx",
                "file": "model.onnx",
                "inputs": [{"name": "v", "datatype": datatype, "shape": shape}],
                "outputs": [{"name": "v", "datatype": datatype, "shape": shape}],
            }
        ).encode()
    )
    message = conversion.request_of_columns(asked(column("v", *given)), signature)
    reply = service_pb2.ModelInferResponse(raw_output_contents=message.raw_input_contents)
    (sent,) = message.inputs
    reply.outputs.add(name="v", datatype=sent.datatype, shape=sent.shape)
    (answered,) = conversion.columns_of(reply)
    assert answered.WhichOneof("values") == back[0]
    assert list(getattr(answered, back[0]).values) == back[1]
    # What was answered can be asked again.
    again = conversion.request_of_columns(asked(answered), signature)
    assert again.inputs == message.inputs
    assert again.raw_input_contents == message.raw_input_contents


async def test_kserves_parameter_of_raw_inputs_is_taken(door: GatewayDoor) -> None:
    request = service_pb2.ModelInferRequest(model_name="plain")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.parameters["binary_data_size"].int64_param = 8
    request.raw_input_contents.append(np.ones(2, np.float32).tobytes())
    context: Any = Context(ALICE)
    await door.infer.infer(request.SerializeToString(), context)
    tensor.parameters["shared_memory_region"].string_param = "a"
    with pytest.raises(Refused, match="shared memory"):
        await door.infer.infer(request.SerializeToString(), context)
