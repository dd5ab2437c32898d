"""HTTP/2 frames and header blocks (RFC 9113, section 6; RFC 7541) as far as gRPC meets them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple, OversizedHeaderListError
from hpack.table import HeaderTable

__all__ = [
    "HeaderBlocks",
    "ProtocolError",
    "RawHeaders",
    "encode_headers",
    "frame",
    "frame_head",
    "headers_payload",
    "literal_header",
    "read_frames",
    "settings_payload",
    "text_headers",
    "unpadded",
]

T = TypeVar("T")
RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
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
WITH_PRIORITY: Final = 0x20

SETTING_TABLE_SIZE: Final = 1
SETTING_ENABLE_PUSH: Final = 2
SETTING_MAX_STREAMS: Final = 3
SETTING_WINDOW: Final = 4
SETTING_FRAME_SIZE: Final = 5
SETTING_HEADER_LIST: Final = 6

ERROR_NONE: Final = 0
ERROR_PROTOCOL: Final = 1
ERROR_FLOW_CONTROL: Final = 3
ERROR_SETTINGS_TIMEOUT: Final = 4
ERROR_STREAM_CLOSED: Final = 5
ERROR_FRAME_SIZE: Final = 6
ERROR_REFUSED: Final = 7
ERROR_CANCEL: Final = 8
ERROR_COMPRESSION: Final = 9
ERROR_CALM_DOWN: Final = 11

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_FRAME_SIZE: Final = 2**24 - 1
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_STREAM: Final = 2**31 - 1


HEAD: Final = struct.Struct(">IBI")
"""Length and type in the first word (24 bits and 8), flags, stream."""
HEAD_BYTES: Final = HEAD.size
_setting = struct.Struct(">HI")
_MOST_BLOCKS: Final = 32
_LONGEST_BLOCK: Final = 1024


class ProtocolError(Exception):
    """The peer does not keep to HTTP/2.

    Args:
        text: What it did.
        code: The error code that tells it.
    """

    def __init__(self, text: str, code: int = ERROR_PROTOCOL) -> None:
        super().__init__(text)
        self.code = code


def frame_head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The 9 bytes before a payload of `length` bytes."""
    return HEAD.pack(length << 8 | kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame, ready to be sent."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def read_frames(data: bytes, largest: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The whole frames at the start of `data`: kind, flags, stream, start and end of the payload.

    Raises:
        ProtocolError: A frame is longer than `largest`.
    """
    position, size = 0, len(data)
    while position + HEAD_BYTES <= size:
        word, flags, stream = HEAD.unpack_from(data, position)
        length = word >> 8
        if length > largest:
            raise ProtocolError(f"a frame of {length} bytes")
        start = position + HEAD_BYTES
        position = start + length
        if position > size:
            return
        yield word & 0xFF, flags, stream & LARGEST_STREAM, start, position


def unpadded(data: bytes, flags: int, start: int, end: int) -> tuple[int, int]:
    """Where the content of a payload that may be padded starts and ends.

    Raises:
        ProtocolError: The padding is longer than the payload.
    """
    if flags & PADDED:
        if start >= end:
            raise ProtocolError("padding without its length", ERROR_FRAME_SIZE)
        end -= data[start]
        start += 1
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
        raise ProtocolError("settings that end within one", ERROR_FRAME_SIZE)
    yield from _setting.iter_unpack(payload)


def encode_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """A block that does not depend on others, so that it can be sent again and again."""
    block: bytes = Encoder().encode(
        [NeverIndexedHeaderTuple(name, value) for name, value in headers], huffman=False
    )
    return block


def literal_header(name: bytes, value: bytes) -> bytes:
    """A header as it stands in a block, without compression and without being remembered."""
    return b"".join((b"\0", _length(name), name, _length(value), value))


def _length(text: bytes) -> bytes:
    left = len(text)
    if left < 0x7F:
        return bytes((left,))
    out, left = bytearray((0x7F,)), left - 0x7F
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def headers_payload(data: bytes, flags: int, start: int, end: int) -> bytes:
    """The header block fragment of a HEADERS frame, without padding and priority.

    Raises:
        ProtocolError: The payload is shorter than its flags say.
    """
    start, end = unpadded(data, flags, start, end)
    if flags & WITH_PRIORITY:
        start += 5
        if start > end:
            raise ProtocolError("a priority that ends early", ERROR_FRAME_SIZE)
    return data[start:end]


class _WatchedTable(HeaderTable):
    """A table of remembered headers that counts its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        # Some peers offer the same headers again and again to a table that was told to be empty.
        if self._maxsize:
            self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        if size != self._maxsize:
            self.changes += 1
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined]


class HeaderBlocks(Generic[T]):
    """Decodes the header blocks of a connection, and knows those again that it has seen.

    A block's meaning depends on the table of remembered headers, which blocks may change. So a
    block is known for as long as the table stays as it was, and only if it left the table alone.

    Args:
        read: Makes of the headers what is wanted; what it raises passes through.
        largest: Most bytes of a decoded list, counted as RFC 9113 does (section 6.5.2).
    """

    def __init__(self, read: Callable[[RawHeaders], T], largest: int = 65_536) -> None:
        self._read = read
        self._table = _WatchedTable()
        self._decoder = Decoder(largest)
        self._decoder.header_table = self._table
        self._known: dict[bytes, T] = {}

    def decode(self, block: bytes) -> T:
        """What the next block says.

        Raises:
            ProtocolError: It is not valid, or too large; the connection cannot go on.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table.changes
        headers = self.decode_raw(block)
        result = self._read(headers)
        if self._table.changes == before and len(block) <= _LONGEST_BLOCK:
            if len(self._known) >= _MOST_BLOCKS:
                self._known.clear()
            self._known[block] = result
        return result

    def decode_raw(self, block: bytes) -> RawHeaders:
        """The headers of the next block as they are.

        Raises:
            ProtocolError: It is not valid, or too large; the connection cannot go on.
        """
        before = self._table.changes
        try:
            headers: RawHeaders = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ProtocolError("too large a list of headers", ERROR_CALM_DOWN) from None
        except HPACKError as error:
            raise ProtocolError(f"headers: {error}", ERROR_COMPRESSION) from None
        if self._table.changes != before:
            self._known.clear()
        return headers


def text_headers(headers: RawHeaders) -> dict[str, str]:
    """Headers as texts; of a name that stands twice the last."""
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in headers
    }
