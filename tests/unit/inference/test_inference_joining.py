"""Joined requests hold the rows of each in order, and each gets its own rows of the response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.gateway.forms import Fit, Form
from services.inference.gateway.joining import join_requests, split_response

COUNTS = st.integers(1, 9)
TEXTS = st.binary(max_size=40)


def texts(values: list[bytes]) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def form_of(rows: int) -> Form:
    asks = service_pb2.ModelInferRequest()
    asks.inputs.add(name="x", datatype="FP32", shape=[rows, 3])
    asks.inputs.add(name="by", datatype="BYTES", shape=[rows, 1])
    asks.inputs[0].parameters["binary_data_size"].int64_param = rows * 12
    asks.outputs.add(name="y")
    asks.parameters["triton_enable_empty_final_response"].bool_param = True
    return Form((rows * 12, -rows), rows, asks, True)


def response_of(*outputs: tuple[str, tuple[int, ...], bytes]) -> bytes:
    response = service_pb2.ModelInferResponse(model_name="runtime-name", model_version="1")
    for number, (datatype, shape, raw) in enumerate(outputs):
        response.outputs.add(name=f"y{number}", datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return bytes(response.SerializeToString())


def parsed(reply: bytes) -> Any:
    return service_pb2.ModelInferResponse.FromString(reply)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(COUNTS, st.integers(1, 5), st.data())
def test_a_joined_request_has_every_row_in_order(
    count: int, rows: int, data: st.DataObject
) -> None:
    form = form_of(rows)
    numbers = np.arange(count * rows * 3, dtype=np.float32).reshape(count, rows, 3)
    said = data.draw(st.lists(TEXTS, min_size=count * rows, max_size=count * rows))
    fits = [
        Fit(form, [numbers[n].tobytes(), texts(said[n * rows : (n + 1) * rows])])
        for n in range(count)
    ]
    joined = service_pb2.ModelInferRequest.FromString(join_requests(form, fits))
    assert (joined.model_name, joined.id) == ("", "")
    assert [list(tensor.shape) for tensor in joined.inputs] == [
        [count * rows, 3],
        [count * rows, 1],
    ]
    assert [tensor.name for tensor in joined.outputs] == ["y"]
    assert not joined.parameters and not joined.inputs[0].parameters
    assert list(joined.raw_input_contents) == [numbers.tobytes(), texts(said)]


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(COUNTS, st.integers(1, 5), st.integers(0, 3), st.data())
def test_each_response_has_its_own_rows(
    count: int, rows: int, width: int, data: st.DataObject
) -> None:
    numbers = np.arange(count * rows * width, dtype=np.int64).reshape(count, rows, width)
    said = data.draw(st.lists(TEXTS, min_size=count * rows * 2, max_size=count * rows * 2))
    reply = response_of(
        ("INT64", (count * rows, width), numbers.tobytes()),
        ("BYTES", (count * rows, 2), texts(said)),
    )
    ids = [f"request {n}" if n % 2 else "" for n in range(count)]
    split = split_response(reply, rows, ids)
    assert split is not None
    for n, own in enumerate(map(parsed, split)):
        assert own.id == ids[n]
        assert [list(output.shape) for output in own.outputs] == [[rows, width], [rows, 2]]
        each = rows * 2
        assert list(own.raw_output_contents) == [
            numbers[n].tobytes(),
            texts(said[n * each : (n + 1) * each]),
        ]


@pytest.mark.parametrize(
    "reply",
    [
        response_of(("FP32", (5, 1), b"\0" * 20)),
        response_of(("FP32", (), b"\0" * 4)),
        response_of(("FP32", (4, 1), b"\0" * 15)),
        response_of(("BYTES", (4, 1), texts([b"a", b"b", b"c"]))),
        response_of(("BYTES", (4, 1), texts([b"a"] * 5))),
        response_of(("BYTES", (4, 1), texts([b"a"] * 4)[:-1])),
        response_of(("FP32", (4, 1), b"\0" * 16))[:-1],
        service_pb2.ModelInferResponse(
            outputs=[{"name": "y", "datatype": "FP32", "shape": [4, 1]}]
        ).SerializeToString(),
    ],
    ids=["rows", "scalar", "bytes", "few", "many", "cut", "torn", "typed"],
)
def test_what_is_not_a_row_for_each_row_is_not_split(reply: bytes) -> None:
    assert split_response(reply, 1, ["a", "b", "c", "d"]) is None


def test_a_model_without_outputs_is_split_too() -> None:
    split = split_response(response_of(), 1, ["a", ""])
    assert split is not None
    assert [parsed(own).id for own in split] == ["a", ""]
