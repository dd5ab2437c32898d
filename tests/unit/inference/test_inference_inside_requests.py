"""Serialised requests as a Triton of this process is told them, and what is refused of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.adapters.triton_inside.requests import read, version_of
from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.fields import text_field
from services.inference.errors import InvalidInference

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "INT8": [-128, 0, 127],
    "INT16": [-32768, 0, 32767],
    "INT32": [-(1 << 31), 0, (1 << 31) - 1],
    "INT64": [-(1 << 63), 0, (1 << 63) - 1],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 65535],
    "UINT32": [0, 1, (1 << 32) - 1],
    "UINT64": [0, 1, (1 << 64) - 1],
    "FP32": [-1.5, 0.0, 3.25],
    "FP64": [-1.1, 0.0, 1e300],
    "BYTES": [b"", b"AA", "ü".encode()],
}


def request(*contents: bytes, inputs: int | None = None, name: str = "model") -> bytes:
    """A request with raw contents, of so many inputs or one for each."""
    message: Any = service_pb2.ModelInferRequest(model_name=name, id="own")
    for index in range(len(contents) if inputs is None else inputs):
        message.inputs.add(name=f"x{index}", datatype="UINT8", shape=[1])
    message.raw_input_contents.extend(contents)
    return bytes(message.SerializeToString())


def typed(datatype: str, values: list[Any]) -> bytes:
    """A request with the elements of its one input told one by one."""
    message: Any = service_pb2.ModelInferRequest(model_name="model")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(tensor.contents, DATATYPES[datatype].contents).extend(values)
    return bytes(message.SerializeToString())


def raw(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    return np.array(values, DATATYPES[datatype].numpy).tobytes()


def test_small_contents_are_taken_in_order() -> None:
    told = read(request(b"ab", b"", b"c"), b"")
    assert [bytes(content) for content in told.contents] == [b"ab", b"", b"c"]
    assert (told.head.model_name, told.head.id) == ("model", "own")


def test_large_contents_are_views_of_the_message() -> None:
    large = bytes(range(256)) * 256
    message = request(large, b"c")
    told = read(message, b"")
    assert list(told.contents) == [large, b"c"]
    for content in told.contents:
        assert isinstance(content, memoryview)
        assert content.obj is message
    assert not told.head.raw_input_contents
    assert [tensor.name for tensor in told.head.inputs] == ["x0", "x1"]


@pytest.mark.parametrize("size", [1, 64 << 10])
def test_what_follows_overrides_the_name(size: int) -> None:
    told = read(request(bytes(size), name="caller's"), text_field(1, "runtime's"))
    assert told.head.model_name == "runtime's"
    assert [len(content) for content in told.contents] == [size]


def test_every_datatype_with_typed_contents_is_known_here() -> None:
    assert VALUES.keys() == {name for name, one in DATATYPES.items() if one.contents}


@pytest.mark.parametrize("datatype", VALUES)
def test_typed_contents_become_raw_ones(datatype: str) -> None:
    values = VALUES[datatype]
    told = read(typed(datatype, values), b"")
    assert [bytes(content) for content in told.contents] == [raw(datatype, values)]


def test_large_typed_contents_become_raw_ones() -> None:
    values = list(range(20_000))
    message = typed("INT64", values)
    assert len(message) > 32 << 10
    assert [bytes(content) for content in read(message, b"").contents] == [raw("INT64", values)]


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "nonsense", ""])
def test_what_has_no_typed_form_is_refused_by_its_name(datatype: str) -> None:
    message: Any = service_pb2.ModelInferRequest(model_name="model")
    message.inputs.add(name="x", datatype=datatype, shape=[1])
    with pytest.raises(InvalidInference, match=f"inputs 'x': {datatype} must be sent raw"):
        read(message.SerializeToString(), b"")


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT16", 65536)])
def test_a_number_beyond_its_datatype_is_refused(datatype: str, value: int) -> None:
    with pytest.raises(InvalidInference, match=f"inputs 'x': holds a number beyond {datatype}"):
        read(typed(datatype, [value]), b"")


@pytest.mark.parametrize("contents", [(b"a",), (b"a", b"b", b"c"), (bytes(64 << 10),)])
def test_another_number_of_contents_than_of_inputs_is_refused(contents: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidInference, match=f"{len(contents)} raw contents for 2 inputs"):
        read(request(*contents, inputs=2), b"")


@pytest.mark.parametrize("garbage", [b"\xff" * 9, b"\x0a\x05ab", b"\xff" * (64 << 10)])
def test_garbage_is_no_request(garbage: bytes) -> None:
    with pytest.raises(InvalidInference, match=r"no inference\.ModelInferRequest"):
        read(garbage, b"")


def test_a_name_that_is_no_text_is_no_request_also_where_it_is_large() -> None:
    for size in (1, 64 << 10):
        with pytest.raises(InvalidInference, match=r"no inference\.ModelInferRequest"):
            read(request(bytes(size)) + b"\x0a\x01\xff", b"")


def test_a_request_may_have_no_inputs() -> None:
    assert list(read(request(), b"").contents) == []


@pytest.mark.parametrize(("version", "number"), [("", -1), ("1", 1), ("12", 12)])
def test_a_version_is_a_number_or_the_latest(version: str, number: int) -> None:
    assert version_of(service_pb2.ModelInferRequest(model_version=version)) == number


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "²", "٣", "9" * 30])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(InvalidInference, match="model_version: must be a number"):
        version_of(service_pb2.ModelInferRequest(model_version=version))
