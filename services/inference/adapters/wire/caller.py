"""One caller's HTTP/2 connection to the door. Callers are strangers: all of it is bounded."""

from __future__ import annotations

from typing import Any, Final

import grpc

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.frames import ProtocolError, frame
from services.inference.adapters.wire.outgoing import Outgoing
from services.inference.adapters.wire.requests import Requests
from services.inference.adapters.wire.responses import DRAIN_PING, LARGEST_SENT

__all__ = ["CallerConnection"]

LARGEST_FRAME: Final = 1 << 20
"""Largest DATA frame that is taken."""
_LARGEST_CONTROL: Final = 16 << 10
_LARGEST_BLOCK: Final = 32 << 10
_MOST_CONTINUATIONS: Final = 16
_CLOSING_SECONDS: Final = 5.0
_PING_SECONDS: Final = 60.0
_CANCELLATIONS_FORGIVEN: Final = 100
_ALIVE_PING: Final = b"thereyet"


class CallerConnection(Requests):
    """The protocol of a connection; one per caller's socket."""

    # The transport's side.

    def connection_made(self, transport: Any) -> None:
        """Introduce ourselves, unless there are too many connections or TLS was told otherwise."""
        self._transport = transport
        self._outgoing = Outgoing(transport, self._loop)
        if not self._door.enter(self):
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._close()
            return
        self.peer = _peer_name(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(high=self._limits.write_buffer)
        settings = {
            frames.SETTING_MAX_STREAMS: self._limits.streams,
            frames.SETTING_WINDOW: self._limits.stream_window,
            frames.SETTING_FRAME_SIZE: LARGEST_FRAME,
            frames.SETTING_HEADER_LIST: self._limits.header_list_bytes,
        }
        room = self._limits.connection_window - frames.DEFAULT_WINDOW
        self._write(
            frame(frames.SETTINGS, 0, 0, frames.settings_payload(settings))
            + frame(frames.WINDOW_UPDATE, 0, 0, room.to_bytes(4, "big"))
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel every call."""
        self._transport = None
        self._outgoing.drop()
        self._buffer = b""
        for call in list(self._calls.values()):
            self._drop(call)
        self._door.leave(self)

    def data_received(self, data: bytes) -> None:
        """Take frames; what is not whole yet waits for the next bytes."""
        self._hear(self._read, data)

    def pause_writing(self) -> None:
        """The socket's buffer is full: responses wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        self._moved = self._loop.time()
        self._pump()

    def check(self, now: float) -> None:
        """Look for what should have happened; the door asks once a second."""
        limits = self._limits
        self._cancelled = max(0, self._cancelled - _CANCELLATIONS_FORGIVEN)
        if self._closing_since is not None:
            if now - self._closing_since > _CLOSING_SECONDS:
                self.abort()
            return
        if not self._met:
            if now - self._since > limits.handshake_seconds:
                self._fail(frames.ERROR_SETTINGS_TIMEOUT, "no settings came")
            return
        if not self._calls:
            if now - max(self._heard, self._moved) > limits.idle_seconds:
                self.refuse_more()
            return
        if (self._paused or self._blocked_calls()) and now - self._moved > limits.stall_seconds:
            self._fail(frames.ERROR_CALM_DOWN, "responses are not read")
            return
        for call in list(self._calls.values()):
            patience = limits.idle_seconds if call.is_between_messages else limits.stall_seconds
            if not call.request_ended and now - call.heard > patience:
                self._refuse(call, grpc.StatusCode.CANCELLED, "the request was left unfinished")
        self._see_whether_alive(now)

    def _blocked_calls(self) -> bool:
        return any(call.pending for call in self._calls.values())

    def _see_whether_alive(self, now: float) -> None:
        if now - self._heard < _PING_SECONDS:
            self._pinged = None
        elif self._pinged is None:
            self._pinged = now
            self._write(frame(frames.PING, 0, 0, _ALIVE_PING))
        elif now - self._pinged > _PING_SECONDS / 2:
            self.abort()

    # Reading.

    def _read(self, data: bytes) -> None:
        if self._data_left:
            data = self._read_rest(data)
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if not self._preface:
            data = self._read_preface(data)
        position, size = 0, len(data)
        unpack = frames.HEAD.unpack_from
        while size - position >= frames.HEAD_BYTES:
            word, flags, stream = unpack(data, position)
            length, kind = word >> 8, word & 0xFF
            stream &= frames.LARGEST_STREAM
            start = position + frames.HEAD_BYTES
            end = start + length
            if not self._met or self._continued is not None or length > _LARGEST_CONTROL:
                self._check_frame(kind, flags, stream, length)
            if end > size:
                if self._take_first_part(kind, flags, stream, length, data[start:]):
                    return
                break
            if kind == frames.DATA:
                self._take_data(flags, stream, data, start, end)
            elif kind == frames.HEADERS:
                block = (
                    frames.headers_payload(data, flags, start, end)
                    if flags & (frames.PADDED | frames.WITH_PRIORITY)
                    else data[start:end]
                )
                self._take_headers(flags, stream, block)
            else:
                self._take_other(kind, flags, stream, data[start:end])
            position = end
            if self._closing_since is not None:
                return
        if position < size:
            self._buffer = data[position:]

    def _read_preface(self, data: bytes) -> bytes:
        given = data[: len(frames.PREFACE)]
        if not frames.PREFACE.startswith(given):
            raise ProtocolError("not HTTP/2")
        if len(given) < len(frames.PREFACE):
            self._buffer = data
            return b""
        self._preface = True
        return data[len(given) :]

    def _check_frame(self, kind: int, flags: int, stream: int, length: int) -> None:
        if not self._met and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError("the first frame is not settings")
        if self._continued is not None and (
            kind != frames.CONTINUATION or stream != self._continued[0]
        ):
            raise ProtocolError("headers that do not end")
        is_passed = kind == frames.DATA or kind > frames.CONTINUATION
        largest = LARGEST_FRAME if is_passed else _LARGEST_BLOCK
        if length > largest:
            raise ProtocolError(f"a frame of {length} bytes", frames.ERROR_FRAME_SIZE)

    # Other frames.

    def _take_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._take_window(stream, payload)
        elif kind == frames.RST_STREAM:
            self._take_reset(stream, payload)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == frames.PING:
            self._take_ping(flags, stream, payload)
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError("a caller does not push")
        elif kind == frames.GOAWAY:
            if stream:
                raise ProtocolError("a GOAWAY of a stream")
            if len(payload) < 8:
                raise ProtocolError("a GOAWAY that is none", frames.ERROR_FRAME_SIZE)
            self.refuse_more()
        else:
            self._make_noise()
            if kind == frames.PRIORITY:
                self._take_priority(stream, payload)

    def _take_priority(self, stream: int, payload: bytes) -> None:
        """Check it; what it says has no meaning any more."""
        if not stream:
            raise ProtocolError("a priority of the connection")
        if len(payload) == 5:
            return
        call = self._calls.get(stream)
        if call is None:
            raise ProtocolError("a priority that is none", frames.ERROR_FRAME_SIZE)
        self._reset(stream, frames.ERROR_FRAME_SIZE)
        self._drop(call)

    def _take_continuation(self, flags: int, payload: bytes) -> None:
        if self._continued is None:
            raise ProtocolError("a continuation of nothing")
        stream, first_flags, block = self._continued
        self._continuations += 1
        block += payload
        if len(block) > _LARGEST_BLOCK or self._continuations > _MOST_CONTINUATIONS:
            raise ProtocolError("headers without end", frames.ERROR_CALM_DOWN)
        self._continued = (stream, first_flags, block)
        if flags & frames.END_HEADERS:
            self._continued, self._continuations = None, 0
            self._take_headers(first_flags | frames.END_HEADERS, stream, block)

    def _take_window(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a window update that is none", frames.ERROR_FRAME_SIZE)
        by = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        self._make_noise()
        if stream == 0:
            self._send_window += by
            if not by:
                raise ProtocolError("a window that grows by nothing")
            if self._send_window > frames.LARGEST_WINDOW:
                raise ProtocolError("too large a window", frames.ERROR_FLOW_CONTROL)
            self._pump()
            return
        call = self._calls.get(stream)
        if call is None:
            if stream > self._last_stream or not stream & 1:
                raise ProtocolError("a window of a stream that is not open")
            return
        call.send_window += by
        if not by or call.send_window > frames.LARGEST_WINDOW:
            code = frames.ERROR_FLOW_CONTROL if by else frames.ERROR_PROTOCOL
            self._reset(stream, code)
            self._drop(call)
        else:
            self._queue(call)
            self._pump()

    def _take_reset(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a reset that is none", frames.ERROR_FRAME_SIZE)
        if stream > self._last_stream or not stream & 1:
            raise ProtocolError("a reset of a stream that is not open")
        self._make_noise()
        call = self._calls.get(stream)
        if call is None:
            return
        self._cancelled += 1
        if self._cancelled > self._limits.cancellations:
            raise ProtocolError("too many calls are cancelled", frames.ERROR_CALM_DOWN)
        self._drop(call)

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ProtocolError("settings of a stream")
        if flags & frames.ACK:
            if payload:
                raise ProtocolError("an acknowledgement with content", frames.ERROR_FRAME_SIZE)
            return
        self._make_noise(8)
        for name, value in frames.read_settings(payload):
            self._set(name, value)
        self._met = True
        self._write(frame(frames.SETTINGS, frames.ACK, 0))
        self._pump()

    def _set(self, name: int, value: int) -> None:
        if name == frames.SETTING_WINDOW:
            if value > frames.LARGEST_WINDOW:
                raise ProtocolError("too large a window", frames.ERROR_FLOW_CONTROL)
            change = value - self._stream_window
            self._stream_window = value
            for call in self._calls.values():
                call.send_window += change
                if call.send_window > frames.LARGEST_WINDOW:
                    raise ProtocolError("too large a window", frames.ERROR_FLOW_CONTROL)
                self._queue(call)
        elif name == frames.SETTING_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                raise ProtocolError("a frame size that is none")
            self._frame_size = min(value, LARGEST_SENT)
        elif name == frames.SETTING_ENABLE_PUSH and value > 1:
            raise ProtocolError("a setting that is neither 0 nor 1")

    def _take_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ProtocolError("a ping of a stream")
        if len(payload) != 8:
            raise ProtocolError("a ping that is none", frames.ERROR_FRAME_SIZE)
        if flags & frames.ACK:
            if payload == DRAIN_PING and self._draining:
                self.refuse_more()
            return
        self._make_noise()
        self._write(frame(frames.PING, frames.ACK, 0, payload))


def _peer_name(address: Any) -> str:
    if not isinstance(address, tuple):
        return f"unix:{address or ''}"
    family = "ipv6" if ":" in address[0] else "ipv4"
    host = f"[{address[0]}]" if family == "ipv6" else address[0]
    return f"{family}:{host}:{address[1]}"
