"""How messages of one shape become JSON: what does not change with their values is made once.

Requests of one caller differ in their values alone, so that a record costs the texts of its values
and no walk over the heads of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import orjson

from services.inference.domain.datatypes import BYTES, DATATYPES

__all__ = ["Layout", "TensorLayout", "UndecodableBody", "json_of"]

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


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
        UndecodableBody: The datatype is unknown or a size negative.
    """

    __slots__ = ("_bytes", "_count", "_dtype", "_inner", "_shape", "field", "head", "name")

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
        inner = list(shape[1:])
        while inner and inner[-1] == 1:
            inner.pop()
        # Rows without elements are not told apart: a head alone may claim any number of them.
        self._inner = inner if self._count else []
        self._shape = shape

    def texts_of_raw(self, raw: bytes) -> tuple[bytes, bytes]:
        """The elements in order, and with one entry per row, as JSON, of raw contents.

        Raises:
            UndecodableBody: They are not what the head says.
        """
        if self._dtype is None:
            return self._texts(_split(self.name, raw))
        if len(raw) != self._bytes:
            shape = list(self._shape)
            raise UndecodableBody(f"{self.name!r} has {len(raw)} bytes for shape {shape}")
        values = np.frombuffer(raw, self._dtype)
        flat = orjson.dumps(values, option=_OPTIONS)
        if not self._inner:
            return flat, flat
        return flat, json_of(values.reshape((self._shape[0], *self._inner)))

    def texts_of_typed(self, values: Sequence[Any]) -> tuple[bytes, bytes]:
        """The same of typed contents."""
        return self._texts([_text(value) for value in values] if self._dtype is None else values)

    def _texts(self, values: Sequence[Any]) -> tuple[bytes, bytes]:
        if len(values) != self._count:
            shape = list(self._shape)
            raise UndecodableBody(f"{self.name!r} has {len(values)} elements for shape {shape}")
        flat = json_of(values)
        return flat, json_of(_nested(values, self._inner)) if self._inner else flat


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


def _nested(values: Sequence[Any], inner: Iterable[int]) -> list[Any]:
    nested: list[Any] = list(values)
    for size in reversed(list(inner)):
        nested = [nested[start : start + size] for start in range(0, len(nested), size)]
    return nested
