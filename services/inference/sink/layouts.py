"""How messages of one shape become JSON: what does not change with their values is made once.

Requests of one caller differ in their values alone, so that a record costs the texts of its values
and no walk over the heads of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from services.inference.domain.datatypes import BYTES, DATATYPES

__all__ = ["Decoded", "Layout", "TensorLayout", "UndecodableBody", "Values", "json_of"]

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
# The last of the types of a field is the largest.
_TYPED_CONTENTS: Final = {one.contents: one.numpy for one in DATATYPES.values()}
"""The numpy type that holds what a field of typed contents may."""
_MOST_DIMENSIONS: Final = 32
"""As many as numpy's arrays have."""

Values: TypeAlias = NDArray[Any] | list[Any]
"""A tensor by row: numbers as an array of rows times what is left of the shape without sizes of 1
at its end, texts as lists of such lists."""


class Decoded(NamedTuple):
    """A tensor's elements."""

    flat: bytes
    """In order, as JSON."""
    by_row: bytes
    """One entry per row, as JSON."""
    values: Values


class UndecodableBody(ValueError):
    """A body is no message of the protocol; the text says what of it is wrong."""


def json_of(value: Any) -> bytes:
    """JSON of a value that may hold numpy arrays; not-a-number and infinity are null."""
    return orjson.dumps(value, option=_OPTIONS)


class TensorLayout:
    """One tensor's head: what its values must be, and how they lie in rows.

    Args:
        head: `ModelInferRequest.InferInputTensor`, or its like of a response.

    Raises:
        UndecodableBody: The datatype is unknown, a size negative, or it has too many dimensions.
    """

    __slots__ = ("_bytes", "_count", "_dtype", "_rows", "_shape", "field", "head", "name")

    def __init__(self, head: Any) -> None:
        datatype = DATATYPES.get(head.datatype)
        if datatype is None:
            raise UndecodableBody(f"{head.name!r} has the unknown datatype {head.datatype!r}")
        shape = tuple(head.shape)
        if any(size < 0 for size in shape):
            raise UndecodableBody(f"{head.name!r} has a negative size")
        self.name: str = head.name
        self.field = datatype.contents
        """The field of typed contents that holds such values; empty where none does."""
        self.head = json_of({"name": head.name, "datatype": head.datatype, "shape": shape})
        """The head as JSON."""
        self._count = prod(shape)
        self._dtype = None if datatype.name == BYTES else np.dtype(datatype.numpy)
        self._bytes = self._count * datatype.size
        rows = list(shape or (1,))
        while len(rows) > 1 and rows[-1] == 1:
            rows.pop()
        if len(rows) > _MOST_DIMENSIONS:
            raise UndecodableBody(f"{head.name!r} has {len(rows)} dimensions")
        # Rows without elements are not told apart: a head alone may claim any number of them.
        self._rows = rows if self._count else [0]
        self._shape = shape

    def decode_raw(self, raw: bytes) -> Decoded:
        """The elements of raw contents.

        Raises:
            UndecodableBody: They are not what the head says.
        """
        if self._dtype is None:
            return self._decode_texts(_split(self.name, raw))
        if len(raw) != self._bytes:
            shape = list(self._shape)
            raise UndecodableBody(f"{self.name!r} has {len(raw)} bytes for shape {shape}")
        values = np.frombuffer(raw, self._dtype).reshape(self._rows)
        by_row = json_of(values)
        if len(self._rows) == 1:
            return Decoded(by_row, by_row, values)
        # Numbers have no brackets of their own, and are written once.
        return Decoded(b"[%b]" % by_row.translate(None, b"[]"), by_row, values)

    def decode_typed(self, contents: Mapping[str, list[Any]]) -> Decoded:
        """The elements of typed contents, by their fields; as `decode_raw`."""
        values = contents.get(self.field, [])
        if self._dtype is None:
            return self._decode_texts([_text(value) for value in values])
        self._check_count(values)
        # Not of its own type: the field takes numbers that are too large for it.
        array = np.array(values, _TYPED_CONTENTS[self.field]).reshape(self._rows)
        return Decoded(json_of(values), json_of(_nested(values, self._rows)), array)

    def _decode_texts(self, values: list[str]) -> Decoded:
        self._check_count(values)
        nested = _nested(values, self._rows)
        return Decoded(json_of(values), json_of(nested), nested)

    def _check_count(self, values: Sequence[Any]) -> None:
        if len(values) != self._count:
            shape = list(self._shape)
            raise UndecodableBody(f"{self.name!r} has {len(values)} elements for shape {shape}")


class Layout:
    """A message's JSON without its id, parameters and values.

    Args:
        message: Without contents, id and parameters.
        tensors: The field of its tensors, `inputs` or `outputs`.

    Raises:
        UndecodableBody: A tensor's head is wrong.
    """

    __slots__ = ("_columns", "_whole", "tensors")

    def __init__(self, message: Any, tensors: str) -> None:
        self.tensors = [TensorLayout(head) for head in getattr(message, tensors)]
        names = {tensor.name: json_of(tensor.name) for tensor in self.tensors}
        self._columns = _template(b"{", (b"%b:\0" % name for name in names.values()), b"}")
        start = {"model_name": message.model_name}
        if message.model_version:
            start["model_version"] = message.model_version
        opening = json_of(start)[:-1].replace(b"%", b"%%")
        shown = (b'%b,"data":\0}' % tensor.head[:-1] for tensor in self.tensors)
        self._whole = opening + b"%b" + _template(b',"%b":[' % tensors.encode(), shown, b"]}")

    def columns(self, texts: dict[str, bytes]) -> str:
        """`{"name": [value of row 1, ...]}`, of the texts by tensor."""
        return (self._columns % tuple(texts.values())).decode()

    def whole(self, identifier: str, parameters: dict[str, Any], texts: Iterable[bytes]) -> str:
        """The whole message in the protocol's REST form, of the texts in the order of tensors."""
        middle = b',"id":%b' % orjson.dumps(identifier) if identifier else b""
        if parameters:
            middle += b',"parameters":%b' % json_of(parameters)
        return (self._whole % (middle, *texts)).decode()


def _template(opening: bytes, parts: Iterable[bytes], end: bytes) -> bytes:
    """A template for `%` with a place for each NUL of the parts; JSON itself has no NUL."""
    return opening + b",".join(parts).replace(b"%", b"%%").replace(b"\0", b"%b") + end


def _split(name: str, raw: bytes) -> list[str]:
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


def _nested(values: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    nested: list[Any] = list(values)
    for size in reversed(shape[1:]):
        nested = [nested[start : start + size] for start in range(0, len(nested), size)]
    return nested
