"""Tensors of the Open Inference Protocol as JSON: whole messages, and columns of values by row."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.domain.datatypes import BYTES, DATATYPES

__all__ = ["DecodedBody", "UndecodableBody", "decode_request", "decode_response", "undecoded"]

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_NONE: Final = "{}"


class UndecodableBody(ValueError):
    """A body is no message of the protocol; the text says what of it is wrong."""


class DecodedBody(NamedTuple):
    """One body as JSON texts."""

    columns: str
    """`{"name": [value of row 1, ...]}`; a row with several elements is a list."""
    message: str
    """The whole message in the protocol's REST form."""
    tensors: Mapping[str, bytes] = MappingProxyType({})
    """The values of each column as JSON."""


def decode_request(body: bytes) -> DecodedBody:
    """A serialised `inference.ModelInferRequest` as JSON.

    Raises:
        UndecodableBody: It is none, or its tensors do not hold what their heads say.
    """
    return _decode(body, service_pb2.ModelInferRequest, "inputs", "raw_input_contents")


def decode_response(body: bytes) -> DecodedBody:
    """A serialised `inference.ModelInferResponse` as JSON; raises as `decode_request`."""
    return _decode(body, service_pb2.ModelInferResponse, "outputs", "raw_output_contents")


def undecoded(body: bytes) -> DecodedBody:
    """A body that is kept though it cannot be read: base64, without columns."""
    if not body:
        return DecodedBody(_NONE, "")
    text = base64.b64encode(body).decode("ascii")
    return DecodedBody(_NONE, orjson.dumps({"base64": text}).decode())


def _decode(body: bytes, kind: Any, tensors: str, contents: str) -> DecodedBody:
    try:
        message = kind.FromString(body)
    except DecodeError:
        raise UndecodableBody(f"is no {kind.DESCRIPTOR.full_name}") from None
    heads = getattr(message, tensors)
    raw = getattr(message, contents)
    if raw and len(raw) != len(heads):
        raise UndecodableBody(f"{contents} has {len(raw)} entries for {len(heads)} {tensors}")
    tensors_json: dict[str, bytes] = {}
    shown: list[dict[str, Any]] = []
    for index, head in enumerate(heads):
        shape = tuple(head.shape)
        values = _values(head, shape, raw[index] if raw else None)
        tensors_json[head.name] = orjson.dumps(_by_row(values, shape), option=_OPTIONS)
        shown.append({"name": head.name, "datatype": head.datatype, "shape": shape, "data": values})
    whole: dict[str, Any] = {"model_name": message.model_name}
    if message.model_version:
        whole["model_version"] = message.model_version
    if message.id:
        whole["id"] = message.id
    if message.parameters:
        whole["parameters"] = {
            name: _parameter(value) for name, value in message.parameters.items()
        }
    whole[tensors] = shown
    columns = {name: orjson.Fragment(text) for name, text in tensors_json.items()}
    return DecodedBody(_json(columns), _json(whole), tensors_json)


def _json(value: Any) -> str:
    return orjson.dumps(value, option=_OPTIONS).decode()


def _parameter(value: Any) -> Any:
    chosen = value.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(value, chosen)


def _values(head: Any, shape: tuple[int, ...], raw: bytes | None) -> Any:
    """The tensor's elements in order: a numpy array, or a list of texts."""
    datatype = DATATYPES.get(head.datatype)
    if datatype is None:
        raise UndecodableBody(f"{head.name!r} has the unknown datatype {head.datatype!r}")
    count = 1
    for size in shape:
        if size < 0:
            raise UndecodableBody(f"{head.name!r} has a negative size")
        count *= size
    values: Any
    if raw is None:
        field = datatype.contents
        values = list(getattr(head.contents, field)) if field else []
        if datatype.name == BYTES:
            values = [_text(value) for value in values]
    elif datatype.name == BYTES:
        values = _texts(head.name, raw)
    elif len(raw) != count * datatype.size:
        raise UndecodableBody(f"{head.name!r} has {len(raw)} bytes for shape {list(shape)}")
    else:
        values = np.frombuffer(raw, datatype.numpy)
    if len(values) != count:
        raise UndecodableBody(f"{head.name!r} has {len(values)} elements for shape {list(shape)}")
    return values


def _texts(name: str, raw: bytes) -> list[str]:
    """Texts that each follow their length in 4 bytes, little-endian."""
    texts = []
    position, end = 0, len(raw)
    while position < end:
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        if position > end or start > end:
            raise UndecodableBody(f"{name!r} ends within a text")
        texts.append(_text(raw[start:position]))
    return texts


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _by_row(values: Any, shape: tuple[int, ...]) -> Any:
    """The elements with one entry per row; sizes of 1 at the end are dropped."""
    inner = list(shape[1:])
    while inner and inner[-1] == 1:
        inner.pop()
    if not shape or not inner:
        return values
    if isinstance(values, np.ndarray):
        return values.reshape((shape[0], *inner))
    return _nested(values, inner)


def _nested(values: Sequence[Any], inner: Iterable[int]) -> list[Any]:
    nested: list[Any] = list(values)
    for size in reversed(list(inner)):
        if size == 0:
            return []
        nested = [nested[start : start + size] for start in range(0, len(nested), size)]
    return nested
