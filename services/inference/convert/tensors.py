"""Tensors between plain values and the protocol's raw contents, held to their datatypes.

Nothing is rounded, wrapped or guessed: a value that its datatype cannot hold is an error.
"""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from services.inference.domain.datatypes import BYTES, DATATYPES, Datatype
from services.inference.errors import InvalidInference
from tessera_kit.errors import FieldViolation

__all__ = [
    "TensorProblem",
    "flat",
    "invalid",
    "raw_contents",
    "shape_of",
    "texts_of",
    "values_of",
]

_MOST_SIZE: Final = 2**63 - 1
_MOST_SIZES: Final = 64


class TensorProblem(ValueError):
    """What is wrong with a tensor; the text follows its name in an error."""


def invalid(place: str, description: str) -> InvalidInference:
    """The error of one place of a request."""
    return InvalidInference(
        f"{place}: {description}", violations=[FieldViolation(place, description)]
    )


def flat(data: Any, shape: tuple[int, ...]) -> list[Any]:
    """The elements of a tensor in row-major order, given flat or nested.

    Args:
        data: From JSON.
        shape: What it is said to have.

    Raises:
        TensorProblem: It is no list, or nested or long as the shape is not.
    """
    if type(data) is not list:
        raise TensorProblem("must have its elements as a list in `data`")
    elements: list[Any] = data
    count = prod(shape)
    if shape and elements and type(elements[0]) is list:
        if len(elements) != shape[0]:
            raise TensorProblem(f"has {len(elements)} items where its shape says {shape[0]}")
        for size in shape[1:]:
            if not all(type(item) is list and len(item) == size for item in elements):
                raise TensorProblem(f"is not nested as its shape {list(shape)} says")
            elements = list(chain.from_iterable(elements))
    if len(elements) != count:
        raise TensorProblem(f"has {len(elements)} elements; its shape needs {count}")
    return elements


def raw_contents(values: list[Any], datatype: Datatype) -> bytes:
    """Plain elements as raw contents; BYTES are of texts or of bytes.

    Raises:
        TensorProblem: One is not of the datatype, or beyond its range.
    """
    kinds = set(map(type, values))
    if datatype.name == BYTES:
        _only(kinds, {str, bytes}, datatype)
        return _texts_contents(values)
    if datatype.name == "BOOL":
        _only(kinds, {bool}, datatype)
        return np.array(values, np.bool_).tobytes()
    kind = np.dtype(datatype.numpy)
    if kind.kind in "iu":
        _only(kinds, {int}, datatype)
        bounds = np.iinfo(kind)
        if values and not bounds.min <= min(values) <= max(values) <= bounds.max:
            raise TensorProblem(f"holds a number beyond {datatype.name}")
        return np.array(values, kind).tobytes()
    _only(kinds, {int, float}, datatype)
    with np.errstate(over="ignore"):
        wide = np.array(values, np.float64)
        narrow = wide.astype(kind)
    if not np.array_equal(np.isfinite(wide), np.isfinite(narrow)):
        raise TensorProblem(f"holds a number beyond {datatype.name}")
    return narrow.tobytes()


def _texts_contents(values: list[str | bytes]) -> bytes:
    """Texts, each after its length in 4 bytes, little-endian."""
    parts = []
    for value in values:
        try:
            text = value if isinstance(value, bytes) else value.encode()
        except UnicodeEncodeError:
            raise TensorProblem("holds text that is not UTF-8") from None
        parts.append(len(text).to_bytes(4, "little"))
        parts.append(text)
    return b"".join(parts)


def values_of(name: str, datatype: str, raw: bytes) -> Any:
    """The elements of raw contents: a numpy array, or a list of texts.

    Raises:
        TensorProblem: They are texts that are not UTF-8, or of a datatype that JSON has no form of.
    """
    known = DATATYPES.get(datatype)
    if known is None:
        raise TensorProblem(f"output {name!r} has the datatype {datatype}; ask for binary data")
    if known.name != BYTES:
        return np.frombuffer(raw, known.numpy)
    try:
        return [text.decode() for text in texts_of(raw)]
    except UnicodeDecodeError:
        raise TensorProblem(
            f"output {name!r} holds bytes that are no text; ask for binary data"
        ) from None


def texts_of(raw: bytes) -> list[bytes]:
    """The elements of raw contents of BYTES."""
    texts, position = [], 0
    while position < len(raw):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        texts.append(raw[start:position])
    return texts


def shape_of(shape: Any) -> tuple[int, ...]:
    """The sizes of a shape from JSON.

    Raises:
        TensorProblem: It is no list of sizes that the protocol can carry.
    """
    if type(shape) is not list or len(shape) > _MOST_SIZES:
        raise TensorProblem(f"must have a list of at most {_MOST_SIZES} sizes as `shape`")
    if not all(type(size) is int and abs(size) <= _MOST_SIZE for size in shape):
        raise TensorProblem("must have integers of 64 bits as the sizes of its `shape`")
    if any(size < 0 for size in shape):
        raise TensorProblem(f"has a negative size in its shape {shape}")
    return tuple(shape)


def _only(kinds: set[type], allowed: set[type], datatype: Datatype) -> None:
    wrong = kinds - allowed
    if wrong:
        named = ", ".join(sorted(_NAMES.get(kind, kind.__name__) for kind in wrong))
        raise TensorProblem(f"is {datatype.name} and holds {named}")


_NAMES: Final = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}
