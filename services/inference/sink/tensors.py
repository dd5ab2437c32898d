"""Tensors of the Open Inference Protocol as JSON: whole messages, and columns of values by row."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.sink.layouts import Decoded, Layout, UndecodableBody, Values
from services.inference.sink.seen import Seen

__all__ = [
    "DecodedBody",
    "UndecodableBody",
    "Values",
    "decode_request",
    "decode_response",
    "undecoded",
]

_NONE: Final = "{}"
_MOST_LAYOUTS: Final = 256
_LARGEST_HEADS: Final = 1 << 12


class DecodedBody(NamedTuple):
    """One body as JSON texts."""

    columns: str
    """`{"name": [value of row 1, ...]}`; a row with several elements is a list, and a tensor
    without elements is `[]`."""
    message: str
    """The whole message in the protocol's REST form."""
    tensors: Mapping[str, Values] = MappingProxyType({})
    """The values of each column."""


class _Kind:
    """One of the protocol's two messages, and the layouts of those that were seen."""

    def __init__(self, message: Any, tensors: str, contents: str) -> None:
        self.message = message
        self.tensors = tensors
        self.contents = contents
        self.number: int = message.DESCRIPTOR.fields_by_name[contents].number
        """The field of raw contents."""
        self._layouts: dict[bytes, Layout] = {}

    def layout(self, message: Any, heads: bytes) -> Layout:
        """The layout of a message without id, parameters and contents, and of it serialised."""
        found = self._layouts.get(heads)
        if found is None:
            found = Layout(message, self.tensors)
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            if len(heads) <= _LARGEST_HEADS:
                self._layouts[heads] = found
        return found


_REQUEST: Final = _Kind(service_pb2.ModelInferRequest, "inputs", "raw_input_contents")
_RESPONSE: Final = _Kind(service_pb2.ModelInferResponse, "outputs", "raw_output_contents")


def decode_request(body: bytes, seen: Seen | None = None) -> DecodedBody:
    """A serialised `inference.ModelInferRequest` as JSON.

    Args:
        body: The message.
        seen: Of earlier requests of the same origin.

    Raises:
        UndecodableBody: It is none, or its tensors do not hold what their heads say.
    """
    return _decode(body, _REQUEST, seen)


def decode_response(body: bytes, seen: Seen | None = None) -> DecodedBody:
    """A serialised `inference.ModelInferResponse` as JSON; as `decode_request`."""
    return _decode(body, _RESPONSE, seen)


def undecoded(body: bytes) -> DecodedBody:
    """A body that is kept though it cannot be read: base64, without columns."""
    if not body:
        return DecodedBody(_NONE, "")
    text = base64.b64encode(body).decode("ascii")
    return DecodedBody(_NONE, orjson.dumps({"base64": text}).decode())


def _decode(body: bytes, kind: _Kind, seen: Seen | None) -> DecodedBody:
    known = None if seen is None else seen.read(body)
    if known is not None:
        return _of_raw(known.layout, known.identifier, known.raw, known.parameters, kind)
    try:
        message = kind.message.FromString(body)
    except DecodeError:
        raise UndecodableBody(f"is no {kind.message.DESCRIPTOR.full_name}") from None
    raw = list(getattr(message, kind.contents))
    identifier, parameters = message.id, {}
    if raw:
        message.ClearField(kind.contents)
    if identifier:
        message.ClearField("id")
    if message.parameters:
        parameters = {name: _parameter(value) for name, value in message.parameters.items()}
        message.ClearField("parameters")
    if raw:
        heads = message.SerializeToString()
        layout = kind.layout(message, heads)
        if seen is not None:
            seen.note(body, kind.number, layout, parameters)
        return _of_raw(layout, identifier, raw, parameters, kind)
    given = [_contents(head) for head in getattr(message, kind.tensors)]
    layout = kind.layout(message, message.SerializeToString())
    decoded = [one.decode_typed(own) for one, own in zip(layout.tensors, given, strict=True)]
    return _shown(layout, identifier, parameters, decoded)


def _of_raw(
    layout: Layout, identifier: str, raw: list[bytes], parameters: dict[str, Any], kind: _Kind
) -> DecodedBody:
    tensors = layout.tensors
    if len(raw) != len(tensors):
        said = f"{len(raw)} entries for {len(tensors)} {kind.tensors}"
        raise UndecodableBody(f"{kind.contents} has {said}")
    decoded = [one.decode_raw(data) for one, data in zip(tensors, raw, strict=True)]
    return _shown(layout, identifier, parameters, decoded)


def _shown(
    layout: Layout, identifier: str, parameters: dict[str, Any], decoded: Sequence[Decoded]
) -> DecodedBody:
    pairs = list(zip(layout.tensors, decoded, strict=True))
    columns = layout.columns({one.name: found.by_row for one, found in pairs})
    whole = layout.whole(identifier, parameters, [found.flat for found in decoded])
    return DecodedBody(columns, whole, {one.name: found.values for one, found in pairs})


def _contents(head: Any) -> dict[str, list[Any]]:
    """The typed contents of a tensor by their field; they are taken out of it."""
    found = {field.name: list(values) for field, values in head.contents.ListFields()}
    head.ClearField("contents")
    return found


def _parameter(value: Any) -> Any:
    chosen = value.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(value, chosen)
