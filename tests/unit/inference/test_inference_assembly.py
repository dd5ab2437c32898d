"""The responses of a stream as one: nothing lost, nothing in another order, nothing unbounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.errors import ModelFailed
from services.inference.gateway.assembly import Assembly
from services.inference.sink.tensors import decode_response


def response(**outputs: Any) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="m", model_version="3", id="mine")
    message.parameters["triton_final_response"].bool_param = False
    for name, value in outputs.items():
        array = np.asarray(value, np.int32)
        message.outputs.add(name=name, datatype="INT32", shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return bytes(message.SerializeToString())


def whole_of(*responses: bytes) -> Any:
    assembly = Assembly(1 << 20)
    for one in responses:
        assembly.add(one)
    return service_pb2.ModelInferResponse.FromString(assembly.response())


def array_of(whole: Any, name: str) -> Any:
    (index,) = [i for i, output in enumerate(whole.outputs) if output.name == name]
    raw = np.frombuffer(whole.raw_output_contents[index], np.int32)
    return raw.reshape(tuple(whole.outputs[index].shape))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 3))
def test_rows_lie_behind_each_other(rows: list[int], width: int) -> None:
    every = np.arange(sum(rows) * width, dtype=np.int32).reshape(-1, width)
    ends = np.cumsum(rows)
    parts = np.split(every, ends[:-1])
    whole = whole_of(*(response(y=part) for part in parts))
    np.testing.assert_array_equal(array_of(whole, "y"), every)
    assert (whole.model_name, whole.model_version, whole.id) == ("m", "3", "mine")
    assert "triton_final_response" not in whole.parameters


def test_shapes_that_do_not_fit_together_become_a_list() -> None:
    whole = whole_of(response(y=[[1, 2]]), response(y=[[3], [4]]))
    assert array_of(whole, "y").tolist() == [1, 2, 3, 4]


def test_an_output_need_not_be_in_every_response() -> None:
    whole = whole_of(response(y=[1]), response(z=[7]), response(y=[2], z=[8]), response())
    assert array_of(whole, "y").tolist() == [1, 2]
    assert array_of(whole, "z").tolist() == [7, 8]
    assert decode_response(whole.SerializeToString()).columns == '{"y":[1,2],"z":[7,8]}'


def test_typed_contents_lie_behind_each_other_too() -> None:
    parts = []
    for text in (b"a", b"b"):
        message = service_pb2.ModelInferResponse()
        output = message.outputs.add(name="t", datatype="BYTES", shape=[1])
        assert output is not None
        output.contents.bytes_contents.append(text)
        parts.append(bytes(message.SerializeToString()))
    whole = whole_of(*parts)
    assert list(whole.outputs[0].contents.bytes_contents) == [b"a", b"b"]
    assert list(whole.outputs[0].shape) == [2]


def test_more_than_is_kept_is_dropped_as_a_whole() -> None:
    one = response(y=[1, 2, 3])
    assembly = Assembly(len(one) * 2)
    assert [assembly.add(one) for _ in range(4)] == [len(one), len(one), -2 * len(one), 0]
    assert (assembly.is_cut, assembly.size, assembly.response()) == (True, 0, b"")


def test_what_is_no_response_is_the_models_fault() -> None:
    with pytest.raises(ModelFailed):
        Assembly(100).add(b"\xff\xff")
