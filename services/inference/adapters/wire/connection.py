"""One HTTP/2 connection that carries many calls of one gRPC method."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any, Final
from urllib.parse import unquote

import grpc

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.frames import (
    HeaderBlocks,
    ProtocolError,
    frame,
    frame_head,
)
from services.inference.adapters.wire.messages import PREFIX_BYTES, Piece, take_pieces
from services.inference.adapters.wire.outgoing import Outgoing

__all__ = ["CallBroken", "CallFailed", "CallRefused", "WireConnection"]

_LARGEST_FRAME: Final = 1 << 20
_VIEWED: Final = 1 << 14
"""Bytes of a body's piece from which on it is not copied before all of it is there."""
_REFILL: Final = 1 << 29
_prefix = struct.Struct(">BI")
_stream_head = struct.Struct(">IBI")
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class CallFailed(Exception):
    """A call ended with a status other than OK.

    Args:
        code: The status.
        details: Its text.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class CallRefused(CallFailed):
    """The server did not begin the call, as it has too many: it may be sent again as it is."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, "the server has too many calls")


class CallBroken(CallFailed):
    """The call ended without a status of the server, which may still be at work for it."""


class _Call:
    """One call on its way."""

    __slots__ = ("data", "ending", "future", "pending", "size", "stream", "timer", "window")

    def __init__(self, stream: int, future: asyncio.Future[bytes], window: int) -> None:
        self.stream = stream
        self.future = future
        self.window = window
        """Bytes that the peer takes on this stream now."""
        self.pending: deque[Piece] = deque()
        """What of the request is not sent yet."""
        self.size = 0
        self.data: list[Piece] = []
        """What of the response has come."""
        self.ending = b""
        """What is put behind the response."""
        self.timer: asyncio.TimerHandle | None = None


class WireConnection(asyncio.Protocol):
    """The protocol of a connection; made for `loop.create_connection`.

    Args:
        authority: `host:port`, as the server is called.
        path: `/package.Service/Method`.
        largest_message: Bytes of the largest response.
    """

    def __init__(self, authority: str, path: str, largest_message: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._largest_message = largest_message
        self._headers = frames.encode_headers(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "tessera-gateway"),
            ]
        )
        self._timeout_name = frames.encode_headers([("grpc-timeout", "")])[:-1]
        self._transport: asyncio.WriteTransport | None = None
        self._outgoing = Outgoing(None, self._loop)
        self._calls: dict[int, _Call] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._blocked: deque[_Call] = deque()
        self._next_stream = 1
        self._most_calls = frames.LARGEST_STREAM
        self._window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._frame_size = frames.DEFAULT_FRAME_SIZE
        self._received = 0
        self._buffer = b""
        self._data_left = 0
        """Bytes that are missing of the DATA frame of which a part was taken."""
        self._data_flags = 0
        self._data_stream = 0
        self._blocks = HeaderBlocks(frames.text_headers)
        self._continued: tuple[int, int, bytes] | None = None
        self.usable = True
        """Whether new calls may begin here."""

    # Calls.

    async def call(
        self, message: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        """Send a serialised request and what follows it; return the response, and what follows.

        Raises:
            CallFailed: The status is not OK, or the connection broke.
        """
        while len(self._calls) >= self._most_calls and self.usable:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(turn)
            await turn
        if not self.usable or self._transport is None:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the connection is closed")
        call = self._begin(message, suffix, timeout)
        call.ending = ending
        try:
            return await call.future
        except asyncio.CancelledError:
            self._reset(call)
            raise
        finally:
            if call.timer is not None:
                call.timer.cancel()

    def _begin(self, message: bytes, suffix: bytes, timeout: float | None) -> _Call:
        stream = self._next_stream
        self._next_stream = stream + 2
        if self._next_stream > frames.LARGEST_STREAM:
            self.usable = False
        call = _Call(stream, self._loop.create_future(), self._stream_window)
        self._calls[stream] = call
        headers = self._headers
        if timeout is not None:
            left = b"%du" % min(99_999_999, max(1, int(timeout * 1_000_000)))
            headers += self._timeout_name + bytes((len(left),)) + left
            call.timer = self._loop.call_later(max(0.0, timeout), self._expire, call)
        head = _stream_head.pack(len(headers) << 8 | frames.HEADERS, frames.END_HEADERS, stream)
        length = len(message) + len(suffix)
        size = PREFIX_BYTES + length
        if size <= self._frame_size and size <= self._window and size <= call.window:
            self._window -= size
            data = _stream_head.pack(size << 8 | frames.DATA, frames.END_STREAM, stream)
            prefix = _prefix.pack(0, length)
            self._write(b"".join((head, headers, data, prefix, message, suffix)))
            if len(self._calls) == 1:
                # No other request could leave with it.
                self._outgoing.flush()
        else:
            self._write(head + headers)
            call.pending.append(_prefix.pack(0, length))
            call.pending.extend(memoryview(part) for part in (message, suffix) if part)
            self._blocked.append(call)
            self._pump()
        return call

    def _expire(self, call: _Call) -> None:
        self._reset(call)
        self._fail(call, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")

    def _reset(self, call: _Call) -> None:
        """Give a call up; the server ends its work."""
        if self._calls.pop(call.stream, None) is None:
            return
        call.pending.clear()
        code = frames.ERROR_CANCEL.to_bytes(4, "big")
        self._write(frame(frames.RST_STREAM, 0, call.stream, code))
        self._admit()

    def _pump(self) -> None:
        """Send what the peer's windows have room for, the oldest call first."""
        blocked = self._blocked
        for _ in range(len(blocked)):
            call = blocked.popleft()
            while call.pending and self._window > 0 and call.window > 0:
                room = min(self._frame_size, self._window, call.window)
                pieces, size = take_pieces(call.pending, room)
                self._window -= size
                call.window -= size
                flags = 0 if call.pending else frames.END_STREAM
                if self._transport is not None:
                    head = frame_head(frames.DATA, flags, call.stream, size)
                    self._outgoing.writelines([head, *pieces])
            if call.pending:
                blocked.append(call)

    def _finish(self, call: _Call, headers: dict[str, str]) -> None:
        if self._calls.pop(call.stream, None) is None:
            return
        status = headers.get("grpc-status")
        if status == "0":
            self._deliver(call)
        else:
            code = _CODES.get(int(status)) if status and status.isdecimal() else None
            if code is None:
                http = headers.get(":status", "200")
                unavailable = http in {"429", "502", "503", "504"}
                code = grpc.StatusCode.UNAVAILABLE if unavailable else grpc.StatusCode.UNKNOWN
            self._fail(call, code, unquote(headers.get("grpc-message", "")))
        self._admit()

    def _deliver(self, call: _Call) -> None:
        data = call.data
        if data and len(data[0]) < PREFIX_BYTES:
            data = [b"".join(data)]
        if not data or len(data[0]) < PREFIX_BYTES:
            self._fail(call, grpc.StatusCode.INTERNAL, "the response holds no message")
            return
        compressed, length = _prefix.unpack_from(data[0])
        data[0] = memoryview(data[0])[PREFIX_BYTES:]
        if compressed or length != sum(map(len, data)):
            self._fail(call, grpc.StatusCode.INTERNAL, "the response is not one plain message")
        elif not call.future.done():
            data.append(call.ending)
            call.future.set_result(b"".join(data))

    @staticmethod
    def _fail(call: _Call, code: grpc.StatusCode, details: str) -> None:
        if not call.future.done():
            call.future.set_exception(CallFailed(code, details))

    def _admit(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    # The connection.

    def connection_made(self, transport: Any) -> None:
        """Introduce ourselves: no header table, no pushes, windows that never close."""
        self._transport = transport
        self._outgoing = Outgoing(transport, self._loop)
        settings = {
            frames.SETTING_TABLE_SIZE: 0,
            frames.SETTING_ENABLE_PUSH: 0,
            frames.SETTING_WINDOW: frames.LARGEST_WINDOW,
            frames.SETTING_FRAME_SIZE: _LARGEST_FRAME,
        }
        room = frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW
        self._write(
            frames.PREFACE
            + frame(frames.SETTINGS, 0, 0, frames.settings_payload(settings))
            + frame(frames.WINDOW_UPDATE, 0, 0, room.to_bytes(4, "big"))
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Fail every call."""
        self.usable = False
        self._transport = None
        self._outgoing.drop()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.future.done():
                broken = CallBroken(grpc.StatusCode.UNAVAILABLE, "the connection broke")
                call.future.set_exception(broken)
        while self._waiting:
            self._admit()

    def data_received(self, data: bytes) -> None:
        """Take frames; what is not whole yet, and no body, waits for the next bytes."""
        if self._data_left:
            data = self._take_rest(data)
        if self._buffer:
            data = self._buffer + data
        used = 0
        try:
            for kind, flags, stream, start, end in frames.read_frames(data, _LARGEST_FRAME):
                self._take(kind, flags, stream, data, start, end)
                used = end
        except ProtocolError:
            self.close()
            return
        self._buffer = b"" if used == len(data) or self._take_begin(data, used) else data[used:]

    def _take_begin(self, data: bytes, position: int) -> bool:
        """Take what has come of a DATA frame; returns whether the next one is such a frame."""
        start = position + frames.HEAD_BYTES
        if start > len(data) or self._continued is not None:
            return False
        word, flags, stream = frames.HEAD.unpack_from(data, position)
        if word & 0xFF != frames.DATA or flags & frames.PADDED:
            return False
        self._data_left = (word >> 8) - (len(data) - start)
        self._data_flags, self._data_stream = flags, stream & frames.LARGEST_STREAM
        self._take_piece(0, self._data_stream, data, start, len(data))
        return True

    def _take_rest(self, data: bytes) -> bytes:
        """Take more of such a frame; returns what follows it."""
        end = min(len(data), self._data_left)
        self._data_left -= end
        flags = 0 if self._data_left else self._data_flags
        self._take_piece(flags, self._data_stream, data, 0, end)
        return data[end:]

    def close(self) -> None:
        """Close the connection; running calls fail."""
        self.usable = False
        if self._transport is not None:
            self._outgoing.flush()
            self._transport.close()

    @property
    def running(self) -> int:
        """Calls that are on their way."""
        return len(self._calls)

    def _take(self, kind: int, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if self._continued is not None and kind != frames.CONTINUATION:
            raise ProtocolError("headers that do not end")
        if kind == frames.DATA:
            self._take_data(flags, stream, data, start, end)
        elif kind == frames.HEADERS:
            block = frames.headers_payload(data, flags, start, end)
            self._take_headers(flags, stream, block)
        elif kind == frames.CONTINUATION:
            if self._continued is None or self._continued[0] != stream:
                raise ProtocolError("a continuation of nothing")
            _, first_flags, block = self._continued
            self._continued = None
            self._take_headers(
                first_flags | flags & frames.END_HEADERS, stream, block + data[start:end]
            )
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError("a push that was not asked for")
        else:
            self._take_control(kind, flags, stream, data[start:end])

    def _take_data(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if flags & frames.PADDED:
            self._received += end - start
            start, end = frames.unpadded(data, flags, start, end)
            self._received -= end - start
        self._take_piece(flags, stream, data, start, end)

    def _take_piece(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        size = end - start
        self._received += size
        if self._received >= _REFILL:
            self._write(frame(frames.WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        call = self._calls.get(stream)
        if call is None:
            return
        # A view keeps all of what was read: worth it where that is little more.
        is_viewed = size >= _VIEWED and size * 4 > len(data)
        call.data.append(memoryview(data)[start:end] if is_viewed else data[start:end])
        call.size += size
        if call.size > self._largest_message + PREFIX_BYTES:
            self._reset(call)
            self._fail(call, grpc.StatusCode.RESOURCE_EXHAUSTED, "the response is too large")
        elif flags & frames.END_STREAM:
            self._finish(call, {})

    def _take_headers(self, flags: int, stream: int, block: bytes) -> None:
        if not flags & frames.END_HEADERS:
            if len(block) > _LARGEST_FRAME:
                raise ProtocolError("headers without end")
            self._continued = (stream, flags, block)
            return
        headers = self._blocks.decode(block)
        call = self._calls.get(stream)
        if call is not None and flags & frames.END_STREAM:
            self._finish(call, headers)

    def _take_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big") & frames.LARGEST_WINDOW)
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._write(frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._apply(payload)
                # Before what uses them: the peer holds us to what it knows us to have taken.
                self._write(frame(frames.SETTINGS, frames.ACK, 0))
                self._pump()
        elif kind == frames.RST_STREAM:
            self._broken_off(stream, int.from_bytes(payload, "big"))
        elif kind == frames.GOAWAY:
            self._go_away(int.from_bytes(payload[:4], "big") & frames.LARGEST_STREAM)

    def _widen(self, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        else:
            call = self._calls.get(stream)
            if call is not None:
                call.window += by
        if self._blocked:
            self._pump()

    def _apply(self, payload: bytes) -> None:
        for name, value in frames.read_settings(payload):
            if name == frames.SETTING_MAX_STREAMS:
                self._most_calls = max(1, value)
            elif name == frames.SETTING_FRAME_SIZE:
                self._frame_size = value
            elif name == frames.SETTING_WINDOW:
                change = value - self._stream_window
                self._stream_window = value
                for call in self._calls.values():
                    call.window += change
        for _ in range(len(self._waiting)):
            self._admit()

    def _broken_off(self, stream: int, error: int) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        call.pending.clear()
        codes = {
            frames.ERROR_CANCEL: grpc.StatusCode.CANCELLED,
            frames.ERROR_CALM_DOWN: grpc.StatusCode.RESOURCE_EXHAUSTED,
        }
        code = codes.get(error, grpc.StatusCode.INTERNAL)
        if not call.future.done():
            refused = error == frames.ERROR_REFUSED
            broken = CallBroken(code, f"the stream was reset ({error})")
            call.future.set_exception(CallRefused() if refused else broken)
        self._admit()

    def _go_away(self, last_stream: int) -> None:
        self.usable = False
        for stream in [stream for stream in self._calls if stream > last_stream]:
            call = self._calls.pop(stream)
            call.pending.clear()
            self._fail(call, grpc.StatusCode.UNAVAILABLE, "the server is going away")
        for _ in range(len(self._waiting)):
            self._admit()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._outgoing.write(data)
