"""Bodies of the protocol as JSON columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.domain.request_id import ID_FIELD, ID_PARAMETER
from services.inference.sink.seen import Seen
from services.inference.sink.tensors import (
    UndecodableBody,
    decode_request,
    decode_response,
    undecoded,
)

Make = Callable[..., Any]


def test_a_column_has_one_value_per_row(make_request: Make) -> None:
    body = decode_request(make_request(2, request_id="mine").SerializeToString())
    assert json.loads(body.columns) == {
        "x": [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]],
        "carrier": ["UA", "UA"],
    }
    message = json.loads(body.message)
    assert message["id"] == "mine"
    assert message["inputs"][0] == {
        "name": "x",
        "datatype": "FP32",
        "shape": [2, 4],
        "data": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    }


@pytest.mark.parametrize(
    ("datatype", "dtype", "values"),
    [
        ("BOOL", "bool", [True, False]),
        ("INT8", "int8", [-1, 2]),
        ("UINT16", "uint16", [1, 65535]),
        ("INT64", "int64", [-(2**62), 2**62]),
        ("UINT64", "uint64", [0, 2**64 - 1]),
        ("FP16", "float16", [0.5, -2.0]),
        ("FP64", "float64", [1e300, -0.1]),
    ],
)
def test_raw_contents_of_every_size(datatype: str, dtype: str, values: list[Any]) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="v", datatype=datatype, shape=[2])
    request.raw_input_contents.append(np.array(values, dtype).tobytes())
    assert json.loads(decode_request(request.SerializeToString()).columns) == {"v": values}


def test_typed_contents(make_request: Make) -> None:
    request = make_request()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    request.inputs[1].contents.bytes_contents.append(b"UA")
    columns = json.loads(decode_request(request.SerializeToString()).columns)
    assert columns == {"x": [[1.0, 2.0, 3.0, 4.0]], "carrier": ["UA"]}


def test_texts_by_row_and_bytes_that_are_no_text() -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="t", datatype="BYTES", shape=[2, 2])
    request.raw_input_contents.append(
        b"\x01\x00\x00\x00a\x00\x00\x00\x00\x02\x00\x00\x00\xffb\x02\x00\x00\x00\xc3\xa9"
    )
    columns = json.loads(decode_request(request.SerializeToString()).columns)
    assert columns == {"t": [["a", ""], ["\\xffb", "é"]]}


def test_not_a_number_becomes_null() -> None:
    response = service_pb2.ModelInferResponse(model_name="m", model_version="3")
    response.outputs.add(name="p", datatype="FP32", shape=[3, 1])
    response.raw_output_contents.append(np.array([np.nan, np.inf, 0.5], "float32").tobytes())
    body = decode_response(response.SerializeToString())
    assert json.loads(body.columns) == {"p": [None, None, 0.5]}
    assert json.loads(body.message)["model_version"] == "3"


def test_parameters_are_kept() -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.parameters["a"].int64_param = 3
    request.parameters["b"].string_param = "x"
    message = json.loads(decode_request(request.SerializeToString()).message)
    assert message["parameters"] == {"a": 3, "b": "x"}


def test_names_may_hold_signs_that_templates_mean() -> None:
    request = service_pb2.ModelInferRequest(model_name="100%b", id="%")
    request.parameters["%s"].string_param = "%b"
    for name, value in (("50%", b"%b"), ("%b", b"%%"), ('"\0', b"\0")):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    body = decode_request(request.SerializeToString())
    assert json.loads(body.columns) == {"50%": ["%b"], "%b": ["%%"], '"\0': ["\0"]}
    message = json.loads(body.message)
    assert (message["model_name"], message["id"]) == ("100%b", "%")
    assert message["parameters"] == {"%s": "%b"}
    assert [head["data"] for head in message["inputs"]] == [["%b"], ["%%"], ["\0"]]


def test_two_tensors_of_one_name_are_shown_and_the_last_one_is_the_column() -> None:
    """No runtime takes them; what was refused for them is a row all the same."""
    request = service_pb2.ModelInferRequest(model_name="m")
    for value in (1, 2):
        request.inputs.add(name="x", datatype="INT8", shape=[1])
        request.raw_input_contents.append(bytes([value]))
    body = decode_request(request.SerializeToString())
    assert json.loads(body.columns) == {"x": [2]}
    assert body.tensors["x"].tolist() == [2]
    assert [head["data"] for head in json.loads(body.message)["inputs"]] == [[1], [2]]


def test_messages_of_one_layout_differ_in_their_values_ids_and_parameters(
    make_request: Make,
) -> None:
    first, second = make_request(request_id="a"), make_request(request_id="b")
    second.parameters["p"].int64_param = 1
    second.raw_input_contents[0] = np.array([9, 8, 7, 6], "float32").tobytes()
    bodies = [
        json.loads(decode_request(one.SerializeToString()).message) for one in (first, second)
    ]
    assert [body["id"] for body in bodies] == ["a", "b"]
    assert [body.get("parameters") for body in bodies] == [None, {"p": 1}]
    assert bodies[0]["inputs"][0]["data"] == [0.0, 1.0, 2.0, 3.0]
    assert bodies[1]["inputs"][0]["data"] == [9.0, 8.0, 7.0, 6.0]


def test_an_answer_that_is_as_the_last_one_was_is_not_parsed() -> None:
    """The model's response, then the endpoint's name and the request's id, as the gateway adds."""
    response = service_pb2.ModelInferResponse(model_name="entity-1", id="mine")
    response.outputs.add(name="y", datatype="INT8", shape=[1])
    told = service_pb2.ModelInferResponse(model_name="flights").SerializeToString() + ID_FIELD
    bodies = []
    for number in (3, 4):
        response.raw_output_contents[:] = [bytes([number])]
        identifier = str(UUID(int=number)).encode()
        bodies.append(response.SerializeToString() + told + identifier)
    seen = Seen()
    decode_response(bodies[0], seen)
    read = seen.read(bodies[1])
    assert read is not None
    assert (read.identifier, read.raw) == ("mine", [b"\x04"])
    assert read.parameters == {ID_PARAMETER: str(UUID(int=4))}


@pytest.mark.parametrize("typed", [False, True])
def test_rows_that_a_head_alone_claims_take_no_memory(typed: bool) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="INT8", shape=[2**60, 0])
    if not typed:
        request.raw_input_contents.append(b"")
    body = decode_request(request.SerializeToString())
    assert json.loads(body.columns) == {"x": []}
    assert json.loads(body.message)["inputs"][0]["shape"] == [2**60, 0]


def wrong_size(request: Any) -> None:
    request.raw_input_contents[0] = b"\0" * 15


def torn_text(request: Any) -> None:
    request.raw_input_contents[1] = b"\x09\x00\x00\x00UA"


def too_few(request: Any) -> None:
    del request.raw_input_contents[1]


def unknown(request: Any) -> None:
    request.inputs[0].datatype = "BF17"


def negative(request: Any) -> None:
    request.inputs[0].shape[0] = -1


@pytest.mark.parametrize("spoil", [wrong_size, torn_text, too_few, unknown, negative])
def test_heads_that_lie_are_found_out(make_request: Make, spoil: Callable[[Any], None]) -> None:
    request = make_request()
    spoil(request)
    with pytest.raises(UndecodableBody):
        decode_request(request.SerializeToString())


def test_what_is_no_message_is_found_out() -> None:
    with pytest.raises(UndecodableBody, match=r"inference\.ModelInferRequest"):
        decode_request(b"\xff\xff\xff")


def test_a_body_that_cannot_be_read_is_kept() -> None:
    assert json.loads(undecoded(b"\xff").message) == {"base64": "/w=="}
    assert undecoded(b"")[:2] == ("{}", "")


@pytest.mark.parametrize("is_raw", [True, False])
def test_more_dimensions_than_an_array_has_are_told(is_raw: bool) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    head = request.inputs.add(name="x", datatype="INT32", shape=[1] * 33 + [2])
    if is_raw:
        request.raw_input_contents.append(bytes(8))
    else:
        head.contents.int_contents.extend([0, 0])
    with pytest.raises(UndecodableBody, match="34 dimensions"):
        decode_request(request.SerializeToString())
    del head.shape[-1]
    head.shape.extend([2, *[1] * 30])
    del head.shape[:33]
    assert json.loads(decode_request(request.SerializeToString()).columns) == {"x": [0, 0]}
