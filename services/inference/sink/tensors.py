"""Tensors of the Open Inference Protocol as JSON: whole messages, and columns of values by row."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.sink.layouts import Layout, UndecodableBody

__all__ = [
    "DecodedBody",
    "Seen",
    "UndecodableBody",
    "decode_request",
    "decode_response",
    "undecoded",
]

_NONE: Final = "{}"
_MOST_LAYOUTS: Final = 256
_LARGEST_HEADS: Final = 1 << 12
_BYTES_FOLLOW: Final = 2
"""The wire type of texts, bytes and messages."""
_ID_TAG: Final = 3 << 3 | _BYTES_FOLLOW
_LONGEST_SHORT: Final = 127
"""The greatest number that protobuf writes in one byte."""


class DecodedBody(NamedTuple):
    """One body as JSON texts."""

    columns: str
    """`{"name": [value of row 1, ...]}`; a row with several elements is a list, and a tensor
    without elements is `[]`."""
    message: str
    """The whole message in the protocol's REST form."""
    tensors: Mapping[str, bytes] = MappingProxyType({})
    """The values of each column as JSON."""


class _Kind:
    """One of the protocol's two messages, and the layouts of those that were seen."""

    def __init__(self, message: Any, tensors: str, contents: str) -> None:
        self.message = message
        self.tensors = tensors
        self.contents = contents
        self.tag: int = message.DESCRIPTOR.fields_by_name[contents].number << 3 | _BYTES_FOLLOW
        """What a tensor's raw contents begin with in a serialised message."""
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


class Seen:
    """How the last message of one origin was written, so that the next is read without parsing.

    A serialised message is its model's name and version, its id, the heads of its tensors and
    their raw contents, in this order. The next message of the same caller differs from the last in
    its id and its contents alone. Whatever is not exactly so is parsed.
    """

    __slots__ = ("_after_id", "_before_id", "_layout", "_tag")

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._before_id = b""
        self._after_id = b""
        self._tag = 0

    def note(self, kind: _Kind, message: Any, heads: bytes, layout: Layout) -> None:
        """Remember a message that had raw contents; it is given without them, id and parameters."""
        name = kind.message(model_name=message.model_name, model_version=message.model_version)
        self._before_id = name.SerializeToString()
        self._after_id = heads[len(self._before_id) :]
        self._tag = kind.tag
        self._layout = layout

    def read(self, body: bytes) -> tuple[Layout, str, list[bytes]] | None:
        """Layout, id and raw contents of a message that is as the last one was; None of others."""
        if self._layout is None or not body.startswith(self._before_id):
            return None
        at = len(self._before_id)
        identifier = ""
        try:
            if body[at] == _ID_TAG:
                start = at + 2
                # A length of more than one byte is left to the parser.
                at = start + body[at + 1]
                if at - start > _LONGEST_SHORT:
                    return None
                identifier = body[start:at].decode()
            if not body.startswith(self._after_id, at):
                return None
            raw = _raw_contents(body, at + len(self._after_id), self._tag)
        except (IndexError, UnicodeDecodeError):
            return None
        return (self._layout, identifier, raw) if raw else None


def _raw_contents(body: bytes, at: int, tag: int) -> list[bytes]:
    """The entries from a place on; none where there is anything else behind it.

    Raises:
        IndexError: The body ends within one.
    """
    raw = []
    end = len(body)
    while at < end:
        if body[at] != tag:
            return []
        size = body[at + 1]
        at += 2
        if size > _LONGEST_SHORT:
            size, shift = size & _LONGEST_SHORT, 7
            while (more := body[at]) > _LONGEST_SHORT:
                size |= (more & _LONGEST_SHORT) << shift
                shift += 7
                at += 1
            size |= more << shift
            at += 1
        raw.append(body[at : at + size])
        at += size
    return raw if at == end else []


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
        return _of_raw(*known, {}, kind)
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
            seen.note(kind, message, heads, layout)
        return _of_raw(layout, identifier, raw, parameters, kind)
    given = [_contents(head) for head in getattr(message, kind.tensors)]
    layout = kind.layout(message, message.SerializeToString())
    texts = [
        one.texts_of_typed(values.get(one.field, []))
        for one, values in zip(layout.tensors, given, strict=True)
    ]
    return _shown(layout, identifier, parameters, texts)


def _of_raw(
    layout: Layout, identifier: str, raw: list[bytes], parameters: dict[str, Any], kind: _Kind
) -> DecodedBody:
    tensors = layout.tensors
    if len(raw) != len(tensors):
        said = f"{len(raw)} entries for {len(tensors)} {kind.tensors}"
        raise UndecodableBody(f"{kind.contents} has {said}")
    texts = [one.texts_of_raw(data) for one, data in zip(tensors, raw, strict=True)]
    return _shown(layout, identifier, parameters, texts)


def _shown(
    layout: Layout,
    identifier: str,
    parameters: dict[str, Any],
    texts: list[tuple[bytes, bytes]],
) -> DecodedBody:
    by_row = {one.name: text for one, (_, text) in zip(layout.tensors, texts, strict=True)}
    whole = layout.whole(identifier, parameters, [flat for flat, _ in texts])
    return DecodedBody(layout.columns(by_row), whole, by_row)


def _contents(head: Any) -> dict[str, list[Any]]:
    """The typed contents of a tensor by their field; they are taken out of it."""
    found = {field.name: list(values) for field, values in head.contents.ListFields()}
    head.ClearField("contents")
    return found


def _parameter(value: Any) -> Any:
    chosen = value.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(value, chosen)
