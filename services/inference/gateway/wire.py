"""Changes to serialised protobuf messages that need no parsing.

A parser takes the last value of a singular field, so a field is replaced by adding it again at the
end (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

__all__ = ["bytes_head", "message_field", "numbers", "text_field"]


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


def _varint(value: int) -> bytes:
    return bytes((value,)) if value <= 0x7F else numbers(value)
