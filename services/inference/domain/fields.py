"""Serialised protobuf messages, changed and taken apart without parsing what is large in them.

A parser takes the last value of a singular field, so a field is replaced by adding it again at the
end (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "Piece",
    "Split",
    "bytes_fields",
    "bytes_head",
    "message_field",
    "numbers",
    "split",
    "text_field",
]

Piece: TypeAlias = bytes | memoryview

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10


def text_field(number: int, text: str) -> bytes:
    """A string field as it is written: tag, length, bytes.

    Args:
        number: Field number, 1 to 15.
        text: The value; an empty one is written too, so that it overrides.

    Raises:
        ValueError: The number needs a longer tag.
    """
    if not 1 <= number <= 15:
        raise ValueError("field numbers above 15 have longer tags")
    value = text.encode()
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def message_field(number: int, message: bytes) -> bytes:
    """A serialised message as a field of another one: tag, length, bytes.

    Args:
        number: Field number, 1 to 15.
        message: The message.
    """
    return b"".join((bytes((number << 3 | 2,)), _varint(len(message)), message))


def bytes_head(number: int, length: int) -> bytes:
    """What stands before the value of a bytes field: tag and length.

    Args:
        number: Field number.
        length: Bytes of the value.
    """
    return numbers(number << 3 | 2, length)


def numbers(*values: int) -> bytes:
    """Numbers as they are written, one behind another: a field's tag and its value, or its length.

    Args:
        values: 0 and above; a tag is the field's number times 8, plus 2 where a length follows.

    Raises:
        ValueError: One is negative.
    """
    out = bytearray()
    for value in values:
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def bytes_fields(number: int, values: Iterable[Piece]) -> list[Piece]:
    """The pieces of a repeated bytes field; the values are not copied."""
    pieces: list[Piece] = []
    for value in values:
        pieces.append(bytes_head(number, len(value)))
        pieces.append(value)
    return pieces


class Split(NamedTuple):
    """A message in two parts."""

    head: bytes
    """All fields but the one that was taken out, as they were written."""
    values: list[memoryview]
    """Each value of that one, in the order in which they stand: views of the message."""


def split(message: bytes, number: int) -> Split | None:
    """Take every value of a bytes field out of a serialised message.

    Args:
        message: As protobuf writes it (https://protobuf.dev/programming-guides/encoding/#structure).
        number: The field's number, 1 to 15.

    Returns:
        Both parts; None for what is no message, and for one with groups, which nobody writes now.
    """
    whole, wanted = memoryview(message), number << 3 | _LENGTH
    kept: list[memoryview] = []
    values: list[memoryview] = []
    position, begin, size = 0, 0, len(message)
    while position < size:
        start = position
        try:
            tag, position = _read_varint(message, position)
            length, position = _read_length(message, position, tag & 7)
        except (IndexError, ValueError):
            return None
        position += length
        if position > size:
            return None
        if tag == wanted:
            kept.append(whole[begin:start])
            values.append(whole[position - length : position])
            begin = position
    kept.append(whole[begin:])
    return Split(b"".join(kept), values)


def _read_length(message: bytes, position: int, kind: int) -> tuple[int, int]:
    """Bytes of a value, and where it begins."""
    if kind == _LENGTH:
        return _read_varint(message, position)
    if kind == _VARINT:
        return _read_varint(message, position)[1] - position, position
    if kind == _FIXED64:
        return 8, position
    if kind == _FIXED32:
        return 4, position
    raise ValueError(f"no wire type: {kind}")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without end")


def _varint(value: int) -> bytes:
    return bytes((value,)) if value <= 0x7F else numbers(value)
