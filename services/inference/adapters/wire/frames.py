"""HTTP/2 frames (RFC 9113, section 6) as far as a gRPC client meets them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

__all__ = [
    "HeaderBlocks",
    "encode_headers",
    "frame",
    "headers_payload",
    "read_frames",
    "settings_payload",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20

SETTING_TABLE_SIZE: Final = 1
SETTING_ENABLE_PUSH: Final = 2
SETTING_MAX_STREAMS: Final = 3
SETTING_WINDOW: Final = 4
SETTING_FRAME_SIZE: Final = 5

ERROR_NONE: Final = 0
ERROR_REFUSED: Final = 7
ERROR_CANCEL: Final = 8
ERROR_CALM_DOWN: Final = 11

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_STREAM: Final = 2**31 - 1

# Length and type share the first word: 24 bits and 8.
_head = struct.Struct(">IBI")
HEAD_BYTES: Final = _head.size
_setting = struct.Struct(">HI")
_MOST_BLOCKS: Final = 256


class ProtocolError(Exception):
    """The peer does not keep to HTTP/2."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame, ready to be sent."""
    return _head.pack(len(payload) << 8 | kind, flags, stream) + payload


def read_frames(data: bytes, largest: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The whole frames at the start of `data`: kind, flags, stream, start and end of the payload.

    Raises:
        ProtocolError: A frame is longer than `largest`.
    """
    position, size = 0, len(data)
    while position + HEAD_BYTES <= size:
        word, flags, stream = _head.unpack_from(data, position)
        length = word >> 8
        if length > largest:
            raise ProtocolError(f"a frame of {length} bytes")
        start = position + HEAD_BYTES
        position = start + length
        if position > size:
            return
        yield word & 0xFF, flags, stream & LARGEST_STREAM, start, position


def unpadded(data: bytes, flags: int, start: int, end: int) -> tuple[int, int]:
    """Where the content of a padded payload starts and ends."""
    if flags & PADDED:
        if start >= end:
            raise ProtocolError("padding without its length")
        end -= data[start]
        start += 1
    if flags & PRIORITY:
        start += 5
    if start > end:
        raise ProtocolError("more padding than payload")
    return start, end


def settings_payload(settings: dict[int, int]) -> bytes:
    """The payload of a SETTINGS frame."""
    return b"".join(_setting.pack(name, value) for name, value in settings.items())


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Names and values of a SETTINGS frame.

    Raises:
        ProtocolError: The payload is not a list of settings.
    """
    if len(payload) % _setting.size:
        raise ProtocolError("settings that end within one")
    yield from _setting.iter_unpack(payload)


def encode_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """A block that does not depend on others, so that it can be sent again and again."""
    block: bytes = Encoder().encode(
        [NeverIndexedHeaderTuple(name, value) for name, value in headers], huffman=False
    )
    return block


def headers_payload(data: bytes, flags: int, start: int, end: int) -> bytes:
    """The header block fragment of a HEADERS frame."""
    start, end = unpadded(data, flags, start, end)
    return data[start:end]


class HeaderBlocks:
    """Decodes the header blocks of a connection, and knows those again that depend on no other."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, dict[str, str]] = {}

    def decode(self, block: bytes) -> dict[str, str]:
        """The headers of the next block.

        Raises:
            ProtocolError: It is not valid.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            headers = {_text(name): _text(value) for name, value in self._decoder.decode(block)}
        except HPACKError as error:
            raise ProtocolError(f"headers: {error}") from None
        # The connection asks for no table of entries; while there is none, equal bytes mean equal
        # headers.
        if not self._decoder.header_table.dynamic_entries and len(self._known) < _MOST_BLOCKS:
            self._known[block] = headers
        return headers


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
