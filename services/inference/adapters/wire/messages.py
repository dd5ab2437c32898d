"""Messages in the body of a call: 5 bytes of prefix, then the message (gRPC over HTTP2)."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import deque
from typing import Final

import grpc

from services.inference.adapters.wire.whole import WholeMessage
from services.inference.domain.fields import Piece

__all__ = [
    "PREFIX_BYTES",
    "InvalidBody",
    "MessageReader",
    "Piece",
    "decompress",
    "message_prefix",
    "take_pieces",
]

_prefix = struct.Struct(">BI")
PREFIX_BYTES: Final = _prefix.size
_ON_THE_LOOP: Final = 1 << 18
"""Bytes that are decompressed at once; more of them take a thread."""


def take_pieces(pending: deque[Piece], room: int) -> tuple[list[Piece], int]:
    """Take up to `room` bytes from the start of what is pending, and how many they are."""
    pieces: list[Piece] = []
    size = 0
    while pending and size < room:
        piece = pending.popleft()
        if len(piece) > room - size:
            view = memoryview(piece)
            pending.appendleft(view[room - size :])
            piece = view[: room - size]
        pieces.append(piece)
        size += len(piece)
    return pieces, size


class InvalidBody(Exception):
    """The body of a call cannot be taken.

    Args:
        code: The status that its caller gets.
        text: Its text.
    """

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def message_prefix(length: int) -> bytes:
    """The prefix of a message that is not compressed."""
    return _prefix.pack(0, length)


class MessageReader:
    """Puts the pieces of a body together; a message is copied once, when it is taken.

    Args:
        largest: Most bytes of a message as it is sent.
    """

    __slots__ = ("_compressed", "_largest", "_need", "_pieces", "_size", "_whole")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._pieces: list[Piece] = []
        self._size = 0
        self._need = -1
        self._compressed = False
        self._whole: WholeMessage | None = None

    @property
    def empty(self) -> bool:
        """Whether it holds no part of a message."""
        return self._size == 0

    @property
    def ready(self) -> bool:
        """Whether it holds a whole message."""
        return 0 <= self._need <= self._size

    @property
    def missing(self) -> int:
        """Bytes of the message that have not come; 0 too while its length is not known."""
        return max(0, self._need - self._size)

    @property
    def is_whole(self) -> bool:
        """Whether the message has all of its memory."""
        return self._whole is not None

    def make_whole(self) -> None:
        """Take memory for all of the message that is coming, so that it is read to its place."""
        self._whole = WholeMessage(self._need - PREFIX_BYTES)
        pieces, self._pieces = self._pieces, []
        pieces[0] = memoryview(pieces[0])[PREFIX_BYTES:]
        for piece in pieces:
            self._whole.put(piece)

    def room(self, most: int) -> memoryview:
        """Where the next bytes of such a message go, `most` of them."""
        if self._whole is None:
            raise RuntimeError("the message has no memory")
        return self._whole.room(most)

    def filled(self, size: int) -> None:
        """So many bytes have come there."""
        if self._whole is None:
            raise RuntimeError("the message has no memory")
        self._whole.filled += size
        self._size += size

    def feed(self, piece: Piece) -> None:
        """Take the next piece.

        Raises:
            InvalidBody: A message is too large, or its prefix is not one.
        """
        self._size += len(piece)
        if self._whole is not None:
            piece = self._whole.put(piece)
        if piece:
            self._pieces.append(piece)
        if self._need < 0:
            self._read_prefix()

    def take(self) -> tuple[bytes, bool]:
        """The first message, and whether it is compressed; only when `ready`.

        Raises:
            InvalidBody: What follows it is no message.
        """
        need, compressed = self._need, self._compressed
        if self._whole is not None:
            message, pieces = self._whole.take(), self._pieces
            self._whole = None
        else:
            message, pieces = _cut(self._pieces, need, self._size)
        self._pieces, self._size, self._need = pieces, self._size - need, -1
        self._read_prefix()
        return message, compressed

    def _read_prefix(self) -> None:
        if self._size < PREFIX_BYTES:
            return
        first = self._pieces[0]
        if len(first) < PREFIX_BYTES:
            first = b"".join(self._pieces)
            self._pieces = [first]
        flag, length = _prefix.unpack_from(first)
        if flag > 1:
            raise InvalidBody(grpc.StatusCode.INTERNAL, "the message's prefix is not one")
        if length > self._largest:
            raise InvalidBody(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the message has {length} bytes; at most {self._largest} are taken",
            )
        self._compressed = flag == 1
        self._need = PREFIX_BYTES + length


def _cut(pieces: list[Piece], end: int, size: int) -> tuple[bytes, list[Piece]]:
    """The message that ends at a byte of the pieces, which have `size`, and what follows it."""
    first = pieces[0]
    if len(first) <= end and size <= end:
        return b"".join((memoryview(first)[PREFIX_BYTES:], *pieces[1:])), []
    if len(first) < end:
        first = b"".join(pieces)
        pieces = [first]
    view = memoryview(first)
    return bytes(view[PREFIX_BYTES:end]), [view[end:], *pieces[1:]]


async def decompress(message: bytes, encoding: str, largest: int) -> bytes:
    """A compressed message as it was.

    Raises:
        InvalidBody: It is damaged, or larger than `largest`.
    """
    if encoding == "identity":
        raise InvalidBody(
            grpc.StatusCode.INTERNAL, "a message is marked compressed, and no grpc-encoding given"
        )
    # 31 takes a gzip header, 15 one of zlib.
    inflater = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        data = inflater.decompress(message, _ON_THE_LOOP)
        while not inflater.eof and len(data) <= largest:
            left = largest + 1 - len(data)
            rest = await asyncio.to_thread(inflater.decompress, inflater.unconsumed_tail, left)
            if not rest:
                break
            data += rest
    except zlib.error as error:
        raise InvalidBody(
            grpc.StatusCode.INTERNAL, f"the message is not {encoding}: {error}"
        ) from None
    if len(data) > largest:
        raise InvalidBody(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the message has more than {largest} bytes once decompressed",
        )
    if not inflater.eof:
        raise InvalidBody(grpc.StatusCode.INTERNAL, f"the message's {encoding} data ends early")
    return data
