"""The half of a caller's connection that takes requests: heads and bodies, all of it bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import grpc

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.call import ServedCall
from services.inference.adapters.wire.frames import (
    HeaderBlocks,
    ProtocolError,
    frame,
    literal_header,
)
from services.inference.adapters.wire.heads import (
    CallHead,
    MalformedHead,
    are_trailers,
    read_head,
)
from services.inference.adapters.wire.messages import (
    PREFIX_BYTES,
    InvalidBody,
    MessageReader,
    Piece,
    decompress,
)
from services.inference.adapters.wire.responses import Responses
from services.inference.adapters.wire.sides import Door
from services.inference.adapters.wire.straight import StraightReader

__all__ = ["Requests"]

T = TypeVar("T")

_PIECE_OVERHEAD: Final = 64
_TINY_PIECE: Final = 64
_LEAST_STRAIGHT: Final = 64 << 10
"""Missing bytes of a frame from which on they are read to where their message is put together."""
_LARGEST_STRAIGHT: Final = 8 << 20
"""Of a message whose memory is taken before it has come."""


class Requests(Responses):
    """Begins calls, puts their bodies together, and starts their handlers.

    Args:
        door: What it is a connection to.
    """

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._buffer = b""
        self._data_left = 0
        self._data_flags = 0
        self._data_call: ServedCall | None = None
        self._data_counts = True
        self._straight = StraightReader(self)
        self._blocks: HeaderBlocks[CallHead] = HeaderBlocks(
            read_head, self._limits.header_list_bytes
        )
        self._continued: tuple[int, int, bytes] | None = None
        self._continuations = 0
        self._receive_window = self._limits.connection_window
        self._taken = 0
        self._met = False
        self._preface = False
        self._pinged: float | None = None

    # Requests.

    def _take_headers(self, flags: int, stream: int, block: bytes) -> None:
        if not flags & frames.END_HEADERS:
            self._continued = (stream, flags, block)
            return
        if not stream & 1:
            raise ProtocolError("headers on a stream that is not a caller's")
        if stream <= self._last_stream:
            self._take_trailers(flags, stream, block)
            return
        self._last_stream = stream
        try:
            head = self._blocks.decode(block)
        except MalformedHead:
            self._make_noise()
            self._reset(stream, frames.ERROR_PROTOCOL)
            return
        if self._refusing or self.running >= self._limits.streams:
            self._make_noise()
            self._reset(stream, frames.ERROR_REFUSED)
            return
        self._begin(flags, stream, head)

    def _take_trailers(self, flags: int, stream: int, block: bytes) -> None:
        headers = self._blocks.decode_raw(block)
        call = self._calls.get(stream)
        if call is None:
            self._make_noise()
            if not self._was_reset(stream):
                raise ProtocolError("headers after the end", frames.ERROR_STREAM_CLOSED)
        elif call.request_ended:
            self._reset(stream, frames.ERROR_STREAM_CLOSED)
            self._drop(call)
        elif not flags & frames.END_STREAM or not are_trailers(headers):
            self._reset(stream, frames.ERROR_PROTOCOL)
            self._drop(call)
        else:
            self._end_request(call)

    def _begin(self, flags: int, stream: int, head: CallHead) -> None:
        timeout = head.timeout
        now = self._heard
        call = ServedCall(
            self,
            stream,
            head,
            None if timeout is None else now + timeout,
            self._stream_window,
            self._limits.stream_window,
        )
        call.heard = now
        self._calls[stream] = call
        if head.http_status:
            self._answer_http(call)
            return
        if head.failure is not None:
            self._refuse(call, *head.failure)
            return
        method = call.method = self._door.find(head.path)
        if method is None:
            self._refuse(call, grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
            return
        if timeout is not None:
            call.timer = self._loop.call_later(timeout, self._expire, call)
        if flags & frames.END_STREAM:
            self._end_request(call)
        elif method.request_streaming:
            call.reader = MessageReader(self._limits.message_bytes)
            self._start(call)

    def _answer_http(self, call: ServedCall) -> None:
        status = literal_header(b":status", str(call.head.http_status).encode())
        # The caller may not know gRPC: it is told by HTTP's status alone.
        call.initial = True
        call.trailers = status
        self._finish_sending(call)

    def _take_data(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        length = end - start
        call = self._admit_data(stream, length)
        if flags & frames.PADDED:
            start, end = frames.unpadded(data, flags, start, end)
        self._credit(length)
        if call is None:
            return
        if (
            flags & frames.END_STREAM
            and call.reader is None
            and end - start >= PREFIX_BYTES
            and end - start <= self._limits.message_bytes
            and not data[start]
            and int.from_bytes(data[start + 1 : start + 5], "big") == end - start - PREFIX_BYTES
        ):
            # The usual case: the whole body in one frame.
            call.message = (data[start + PREFIX_BYTES : end], False)
            call.received = end - start
            self._hold(call, call.received)
            self._noise = 0
            self._end_request(call)
            return
        piece: Piece = memoryview(data)[start:end]
        if len(piece) * 4 < len(data):
            # A view would keep all of what was read.
            piece = bytes(piece)
        self._take_piece(call, piece, length, bool(flags & frames.END_STREAM))

    def _take_first_part(
        self, kind: int, flags: int, stream: int, length: int, part: bytes
    ) -> bool:
        """Take the first part of a frame that need not be whole; the rest follows in `_read_rest`.

        Those are data, and what is of an unknown type and passed over. Returns whether it is one.
        """
        self._data_counts = kind == frames.DATA
        if self._data_counts and not flags & frames.PADDED:
            call = self._admit_data(stream, length)
        elif kind > frames.CONTINUATION:
            self._make_noise()
            call = None
        else:
            return False
        self._data_left, self._data_flags, self._data_call = length, flags, call
        self._read_rest(part)
        self._read_straight()
        return True

    def _read_rest(self, data: bytes) -> bytes:
        part, rest = (
            (data, b"")
            if len(data) <= self._data_left
            else (
                data[: self._data_left],
                data[self._data_left :],
            )
        )
        self._data_left -= len(part)
        if self._data_counts:
            self._credit(len(part))
        call = self._data_call
        last = not self._data_left and bool(self._data_flags & frames.END_STREAM)
        if not self._data_left:
            self._data_call = None
        if call is not None and not call.ended and (part or last):
            self._take_piece(call, part, len(part), last)
        return rest

    def _read_straight(self) -> None:
        """Have the rest of a large frame read to where its message is put together."""
        call = self._data_call
        if call is None or call.ended or call.reader is None or call.method.request_streaming:
            return
        reader = call.reader
        if not _LEAST_STRAIGHT <= self._data_left <= reader.missing <= _LARGEST_STRAIGHT:
            return
        if not reader.is_whole:
            if self._door.held + reader.missing > self._limits.held_bytes:
                return
            self._hold(call, reader.missing)
            reader.make_whole()
        self._transport.set_protocol(self._straight)

    def room(self) -> memoryview:
        """Where the next bytes of the frame go."""
        if self._data_call is None or self._data_call.reader is None:
            return memoryview(bytearray(min(self._data_left, _LEAST_STRAIGHT)))
        return self._data_call.reader.room(self._data_left)

    def filled(self, size: int) -> None:
        """So many of them have come."""
        self._hear(self._take_filled, size)

    def _hear(self, take: Callable[[T], None], what: T) -> None:
        """Take what has come, unless the connection is closing; it is closed for a breach."""
        if self._closing_since is not None:
            return
        self._heard = self._loop.time()
        try:
            take(what)
        except ProtocolError as fault:
            self._fail(fault.code, str(fault))

    def _take_filled(self, size: int) -> None:
        call = self._data_call
        self._data_left -= size
        self._credit(size)
        if not self._data_left:
            self._data_call = None
            self._transport.set_protocol(self)
        if call is None or call.reader is None:
            # It has ended meanwhile.
            return
        call.reader.filled(size)
        self._note_piece(call, size, size)
        last = not self._data_left and bool(self._data_flags & frames.END_STREAM)
        self._take_message(call, call.reader, last)

    def _admit_data(self, stream: int, length: int) -> ServedCall | None:
        """The call that bytes are for, and whether they are within the windows."""
        self._receive_window -= length
        if self._receive_window < 0:
            raise ProtocolError("more data than the window", frames.ERROR_FLOW_CONTROL)
        call = self._calls.get(stream)
        if call is None:
            if stream > self._last_stream or not stream & 1:
                raise ProtocolError("data on a stream that is not open")
            self._make_noise()
            if not self._was_reset(stream):
                self._reset(stream, frames.ERROR_STREAM_CLOSED)
            return None
        if call.request_ended:
            self._make_noise()
            if not call.ended:
                self._reset(stream, frames.ERROR_STREAM_CLOSED)
                self._drop(call)
            return None
        call.receive_window -= length
        if call.receive_window < 0:
            self._reset(stream, frames.ERROR_FLOW_CONTROL)
            self._drop(call)
            return None
        return call

    def _credit(self, length: int) -> None:
        """Give the connection's window back: what a call holds is bounded elsewhere."""
        self._taken += length
        if self._taken >= self._limits.connection_window // 2:
            self._receive_window += self._taken
            self._write(frame(frames.WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0

    def _take_piece(self, call: ServedCall, piece: Piece, length: int, last: bool) -> None:
        size = len(piece)
        if last:
            self._noise = 0
        self._note_piece(call, size, length)
        reader = call.reader
        if reader is None:
            reader = call.reader = MessageReader(self._limits.message_bytes)
        if not reader.is_whole and not self._hold(call, size + _PIECE_OVERHEAD):
            self._refuse(
                call, grpc.StatusCode.RESOURCE_EXHAUSTED, "the server holds all it can; try again"
            )
            return
        try:
            if size:
                reader.feed(piece)
        except InvalidBody as error:
            self._refuse(call, error.code, error.text)
            return
        self._take_message(call, reader, last)

    def _note_piece(self, call: ServedCall, size: int, length: int) -> None:
        """Count a part of a body that came in so many bytes of a frame."""
        call.heard = self._heard
        call.received += size
        call.taken += length
        if size > _TINY_PIECE:
            self._noise = 0
        else:
            self._make_noise()

    def _take_message(self, call: ServedCall, reader: MessageReader, last: bool) -> None:
        """Take the message of a call that has one once it is there, and go on."""
        try:
            if not call.method.request_streaming and reader.ready and call.message is None:
                call.message = reader.take()
            if call.message is not None and not reader.empty:
                raise InvalidBody(grpc.StatusCode.UNIMPLEMENTED, "more than one message came")
        except InvalidBody as error:
            self._refuse(call, error.code, error.text)
            return
        if call.method.request_streaming:
            call.wake_reader()
        if last:
            self._end_request(call)
        else:
            self._widen_for(call)

    def _widen_for(self, call: ServedCall) -> None:
        """Let the caller send on, unless a message of it already waits for the handler."""
        if call.taken < self._limits.stream_window // 2 or call.request_ended:
            return
        if call.method.request_streaming and call.reader is not None and call.reader.ready:
            return
        call.receive_window += call.taken
        self._write(frame(frames.WINDOW_UPDATE, 0, call.stream, call.taken.to_bytes(4, "big")))
        call.taken = 0

    def consumed(self, call: ServedCall) -> None:
        """The handler has taken a message of a streamed request."""
        if call.reader is not None and not call.reader.ready:
            self._door.held -= call.held
            call.held = 0
            self._widen_for(call)

    async def plain(self, call: ServedCall, message: bytes, compressed: bool) -> bytes:
        """The message without compression.

        Raises:
            InvalidBody: It cannot be decompressed.
        """
        if not compressed:
            return message
        return await decompress(message, call.head.encoding, self._limits.message_bytes)

    def _end_request(self, call: ServedCall) -> None:
        call.request_ended = True
        declared = call.head.length
        if declared is not None and declared != call.received:
            self._reset(call.stream, frames.ERROR_PROTOCOL)
            self._drop(call)
            return
        if call.method.request_streaming:
            if call.task is None:
                self._start(call)
            if call.reader is not None and not call.reader.ready and not call.reader.empty:
                call.failure = InvalidBody(
                    grpc.StatusCode.INTERNAL, "the request ends within a message"
                )
            call.wake_reader()
        elif call.message is None:
            text = "the request ends within its message" if call.reader else "no message came"
            self._refuse(call, grpc.StatusCode.INTERNAL, text)
        else:
            call.reader = None
            self._start(call)

    def _start(self, call: ServedCall) -> None:
        call.task = self._door.start_call(self, call)

    def _expire(self, call: ServedCall) -> None:
        call.timer = None
        if call.ended:
            return
        # The timers of uvloop are up to a millisecond ahead of its clock.
        call.deadline = self._loop.time()
        if call.task is None:
            self.finish(call, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
        elif not call.begun:
            # Its first step waits already; a task that is cancelled before it tells nobody.
            call.timer = self._loop.call_soon(self._expire, call)
        else:
            # The handler sees that no time is left, and ends the call.
            self._door.cancel_call(call)
