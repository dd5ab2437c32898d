"""Messages of the protocol become the JSON that an obvious, slow way makes of them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from math import isfinite, prod
from typing import Any
from uuid import UUID

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.domain.datatypes import BYTES, DATATYPES, Datatype
from services.inference.domain.request_id import ID_FIELD, ID_PARAMETER
from services.inference.sink.seen import Seen
from services.inference.sink.tensors import (
    DecodedBody,
    UndecodableBody,
    decode_request,
    decode_response,
)

# Signs that mean something to JSON, to templates, or to the protocol's own texts.
texts = st.text('ab%"\\{}:,\0\n\u2028é😀', max_size=6) | st.sampled_from(["%b", "%%", "%(x)s", "x"])


@st.composite
def elements(draw: st.DrawFn, kind: Datatype, count: int) -> list[Any]:
    """So many elements of a type, as Python's own values."""
    if kind.name == BYTES:
        each: st.SearchStrategy[Any] = st.binary(max_size=4) | texts.map(str.encode)
    elif kind.name == "BOOL":
        each = st.booleans()
    elif kind.name.startswith("FP"):
        each = st.floats(width=8 * kind.size)  # type: ignore[arg-type]  # 16, 32 or 64
    else:
        limits = np.iinfo(kind.numpy)
        each = st.integers(int(limits.min), int(limits.max))
    return draw(st.lists(each, min_size=count, max_size=count))


@st.composite
def messages(draw: st.DrawFn) -> tuple[Any, list[tuple[Any, list[Any]]], bool]:
    """A request or response, its tensors' heads with their elements, and whether these are raw."""
    if draw(st.booleans()):
        message = service_pb2.ModelInferRequest()
        heads, contents = message.inputs, message.raw_input_contents
    else:
        message = service_pb2.ModelInferResponse()
        heads, contents = message.outputs, message.raw_output_contents
    message.model_name, message.id = draw(texts), draw(texts)
    message.model_version = draw(st.sampled_from(["", "3", "%"]))
    for name, value in draw(st.dictionaries(texts, st.integers(-5, 5) | texts, max_size=2)).items():
        parameter = message.parameters[name]
        if isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value
    raw = draw(st.booleans())
    known = [one for one in DATATYPES.values() if raw or one.contents]
    tensors = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(known))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        head = heads.add(name=draw(texts), datatype=kind.name, shape=shape)
        values = draw(elements(kind, prod(shape)))
        if raw:
            contents.append(packed(kind, values))
        else:
            getattr(head.contents, kind.contents).extend(values)
        tensors.append((head, values))
    return message, tensors, raw


def packed(kind: Datatype, values: list[Any]) -> bytes:
    """The elements as raw contents."""
    if kind.name == BYTES:
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    return np.array(values, kind.numpy).tobytes()


def shown(kind: str, value: Any, raw: bool) -> Any:
    """An element as JSON has it."""
    if kind == BYTES:
        return value.decode("utf-8", "backslashreplace")
    if not kind.startswith("FP"):
        return value
    if not isfinite(value):
        return None
    # Half and single precision have fewer digits than Python's floats, where they come raw.
    return float(str(np.float32(value))) if raw and kind != "FP64" else value


def by_row(values: list[Any], shape: list[int]) -> list[Any]:
    """One entry per row; sizes of 1 at the end of a shape are dropped."""
    if not values:
        return []
    inner = shape[1:]
    while inner and inner[-1] == 1:
        inner = inner[:-1]
    return cut(values, [shape[0], *inner]) if inner else values


def cut(values: list[Any], shape: list[int]) -> list[Any]:
    """The elements as nested lists of a shape."""
    if len(shape) == 1:
        return values
    size = prod(shape[1:])
    return [cut(values[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def decoded(message: Any) -> DecodedBody:
    """The message's JSON; the same once its like was seen, with another id too."""
    decode = (
        decode_request if isinstance(message, service_pb2.ModelInferRequest) else decode_response
    )
    body = message.SerializeToString()
    found = decode(body)
    seen = Seen()
    other = type(message).FromString(body)
    other.id = "another"
    for like in (message, other, message):
        assert plain(decode(like.SerializeToString(), seen)) == plain(
            decode(like.SerializeToString())
        )
    for cut in range(1, min(len(body), 40)):
        assert outcome(decode, body[:-cut], seen) == outcome(decode, body[:-cut], None)
    return found


@settings(max_examples=200)
@given(messages(), texts, st.sampled_from(["", "7"]), st.booleans())
def test_an_answer_with_what_the_gateway_adds_is_shown_as_it_is_parsed(
    made: tuple[Any, list[tuple[Any, list[Any]]], bool], name: str, version: str, late: bool
) -> None:
    """The endpoint's name and the request's id follow the model's own response."""
    message = made[0]
    decode = (
        decode_request if isinstance(message, service_pb2.ModelInferRequest) else decode_response
    )
    told = type(message)(model_name=name, model_version=version).SerializeToString()
    replaced = type(message)()
    if late:
        replaced.parameters[ID_PARAMETER].int64_param = 1
    seen = Seen()
    for number in (1, 2, 0xABC):
        identifier = str(UUID(int=number)).encode()
        message.id = message.id and str(number)
        body = message.SerializeToString() + told + ID_FIELD + identifier
        body += replaced.SerializeToString()
        assert plain(decode(body, seen)) == plain(decode(body))
        for cut in range(1, 100, 9):
            assert outcome(decode, body[:-cut], seen) == outcome(decode, body[:-cut], None)
        assert outcome(decode, body + b"\x80", seen) == outcome(decode, body + b"\x80", None)


def outcome(decode: Callable[..., DecodedBody], body: bytes, seen: Seen | None) -> Any:
    try:
        return plain(decode(body, seen))
    except UndecodableBody as error:
        return str(error)


def plain(body: DecodedBody) -> Any:
    """The body in values that can be compared."""
    tensors = {
        name: values if isinstance(values, list) else (values.dtype, values.shape, values.tobytes())
        for name, values in body.tensors.items()
    }
    return body.columns, body.message, tensors


def is_told(kind: str, elements: list[Any], rows: list[Any], values: Any) -> bool:
    """Whether a typed column would be told a tensor's elements, in the rows that JSON has."""
    if kind == BYTES:
        return bool(values == rows)
    exact = np.array(elements, values.dtype).tolist() == elements or kind.startswith("FP")
    same = np.array_equal(values.reshape(-1), np.array(elements, values.dtype), equal_nan=True)
    return exact and same and values.shape == shape_of(rows)


def shape_of(rows: list[Any]) -> tuple[int, ...]:
    """The sizes of nested lists."""
    inner = shape_of(rows[0]) if rows and isinstance(rows[0], list) else ()
    return (len(rows), *inner)


@settings(max_examples=400)
@given(messages())
def test_a_message_is_shown_as_the_obvious_way_shows_it(
    made: tuple[Any, list[tuple[Any, list[Any]]], bool],
) -> None:
    message, tensors, raw = made
    wanted: dict[str, Any] = {"model_name": message.model_name}
    if message.model_version:
        wanted["model_version"] = message.model_version
    if message.id:
        wanted["id"] = message.id
    if message.parameters:
        wanted["parameters"] = {
            name: getattr(value, str(value.WhichOneof("parameter_choice")))
            for name, value in message.parameters.items()
        }
    columns: dict[str, Any] = {}
    data = []
    for head, values in tensors:
        shape = list(head.shape)
        flat = [shown(head.datatype, value, raw) for value in values]
        columns[head.name] = by_row(flat, shape)
        data.append({"name": head.name, "datatype": head.datatype, "shape": shape, "data": flat})
    is_request = isinstance(message, service_pb2.ModelInferRequest)
    wanted["inputs" if is_request else "outputs"] = data
    # The first is shown by a layout that is made for it, the second by one that is known.
    for body in (decoded(message), decoded(message)):
        assert json.loads(body.message) == wanted
        assert json.loads(body.columns) == columns
        assert body.tensors.keys() == columns.keys()
        for name, (head, values) in {head.name: (head, values) for head, values in tensors}.items():
            texts = [shown(BYTES, one, raw) for one in values] if head.datatype == BYTES else values
            assert is_told(head.datatype, texts, columns[name], body.tensors[name])


@settings(max_examples=200)
@given(messages(), st.data())
def test_a_message_that_lies_is_refused_though_its_like_was_shown(
    made: tuple[Any, list[tuple[Any, list[Any]]], bool], data: st.DataObject
) -> None:
    message, tensors, raw = made
    if not tensors:
        return
    decoded(message)
    number = data.draw(st.integers(0, len(tensors) - 1))
    head = tensors[number][0]
    kind = DATATYPES[head.datatype]
    if raw:
        contents = (
            message.raw_input_contents
            if isinstance(message, service_pb2.ModelInferRequest)
            else message.raw_output_contents
        )
        contents[number] += b"\0" * 4 if kind.name == BYTES else b"\0"
    else:
        values = getattr(head.contents, kind.contents)
        values.append(b"" if kind.name == BYTES else 0)
    try:
        body = decoded(message)
    except UndecodableBody as error:
        assert repr(head.name) in str(error)
        return
    raise AssertionError(f"shown as {b64encode(body.message.encode())!r}")
