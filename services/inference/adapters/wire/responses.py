"""The half of a caller's connection that sends: responses within what the caller has room for."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from typing import Any, Final
from urllib.parse import quote

import grpc

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.call import ServedCall
from services.inference.adapters.wire.frames import (
    ProtocolError,
    frame,
    frame_head,
    literal_header,
)
from services.inference.adapters.wire.heads import Metadata
from services.inference.adapters.wire.messages import PREFIX_BYTES, message_prefix, take_pieces
from services.inference.adapters.wire.outgoing import Outgoing
from services.inference.adapters.wire.sides import Door

__all__ = ["Responses"]

_JOINED: Final = 16 << 10
"""Bytes of a message that are copied to stand with its prefix; larger ones are not copied."""
LARGEST_SENT: Final = 1 << 18
"""Largest DATA frame that is sent, so that calls take turns."""
_AHEAD: Final = 1 << 18

_INITIAL: Final = (
    b"\x88"  # :status 200
    + literal_header(b"content-type", b"application/grpc")
    + literal_header(b"grpc-accept-encoding", b"identity,deflate,gzip")
)
_OK: Final = literal_header(b"grpc-status", b"0")
_PRINTABLE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_LONGEST_DETAILS: Final = 4096
_RESETS_REMEMBERED: Final = 256
DRAIN_PING: Final = b"draining"


class Responses(asyncio.Protocol):
    """Sends what handlers answer, and ends calls and the connection.

    Args:
        door: What it is a connection to.
    """

    ahead = _AHEAD
    """Bytes of a streamed response that may wait for the caller before its handler does."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._limits = door.limits
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._outgoing = Outgoing(None, self._loop)
        self._calls: dict[int, ServedCall] = {}
        self._ending = 0
        self._blocked: deque[ServedCall] = deque()
        self._last_stream = 0
        self._reset_streams: dict[int, None] = {}
        self._reset_before = 0
        self._send_window = frames.DEFAULT_WINDOW
        self._stream_window = frames.DEFAULT_WINDOW
        self._frame_size = frames.DEFAULT_FRAME_SIZE
        self._noise = 0
        self._cancelled = 0
        self._paused = False
        self._draining = False
        self._refusing = False
        self._closing_since: float | None = None
        self._since = self._heard = self._moved = self._loop.time()
        self.peer = ""
        """Where the caller is."""

    @property
    def running(self) -> int:
        """Calls that are not over."""
        return len(self._calls) + self._ending

    def drain(self) -> None:
        """Tell the caller to begin no more calls; what it has begun already is still taken."""
        if self._draining or self._transport is None:
            return
        self._draining = True
        self._write(
            go_away(frames.LARGEST_STREAM, frames.ERROR_NONE) + frame(frames.PING, 0, 0, DRAIN_PING)
        )
        self._close_if_done()

    def refuse_more(self) -> None:
        """Second half of `drain`, once the caller has heard of the first."""
        if self._refusing or self._transport is None:
            return
        self._draining = self._refusing = True
        self._write(go_away(self._last_stream, frames.ERROR_NONE))
        self._close_if_done()

    def flush(self) -> None:
        """Send what waits for the end of this turn of the loop."""
        if self._transport is not None:
            self._outgoing.flush()

    def abort(self) -> None:
        """Break the connection; its calls are cancelled."""
        if self._transport is not None:
            self._transport.abort()

    def _make_noise(self, weight: int = 1) -> None:
        self._noise += weight
        if self._noise > self._limits.noise:
            raise ProtocolError("too much that leads nowhere", frames.ERROR_CALM_DOWN)

    def _hold(self, call: ServedCall, size: int) -> bool:
        call.held += size
        self._door.held += size
        return self._door.held <= self._limits.held_bytes

    # Answering.

    def reply(self, call: ServedCall, message: bytes) -> None:
        """Send the one message of a response and OK."""
        if call.ended or self._transport is None:
            return
        size = PREFIX_BYTES + len(message)
        if (
            not call.initial
            and not self._paused
            and call.request_ended
            and size <= self._frame_size
            and size <= self._send_window
            and size <= call.send_window
        ):
            self._send_window -= size
            trailers = _OK + _encoded(call.trailing_metadata())
            stream = call.stream
            pack = frames.HEAD.pack
            end = frames.END_HEADERS | frames.END_STREAM
            self._outgoing.write(
                b"".join(
                    (
                        pack(len(_INITIAL) << 8 | frames.HEADERS, frames.END_HEADERS, stream),
                        _INITIAL,
                        pack(size << 8 | frames.DATA, 0, stream),
                        message_prefix(len(message)),
                        message,
                        pack(len(trailers) << 8 | frames.HEADERS, end, stream),
                        trailers,
                    )
                )
            )
            self._over(call)
            return
        self.send_message(call, message)
        self.finish(call, grpc.StatusCode.OK, "")

    def send_message(self, call: ServedCall, message: bytes) -> None:
        """Send a message, or keep it until the caller has room."""
        if call.ended or self._transport is None:
            return
        self._send_initial(call)
        prefix = message_prefix(len(message))
        if len(message) < _JOINED:
            call.pending.append(prefix + message)
        else:
            call.pending.append(prefix)
            call.pending.append(memoryview(message))
        size = PREFIX_BYTES + len(message)
        call.pending_bytes += size
        if not self._hold(call, size):
            self._reset(call.stream, frames.ERROR_CALM_DOWN)
            self._drop(call)
            return
        self._queue(call)
        self._pump()

    def finish(self, call: ServedCall, code: grpc.StatusCode, details: str) -> None:
        """End a call with its status, after what is pending of it."""
        if call.ended or call.trailers is not None or self._transport is None:
            return
        number: int = code.value[0]
        block = _OK if not number else literal_header(b"grpc-status", b"%d" % number)
        if details:
            text = quote(details[:_LONGEST_DETAILS], safe=_PRINTABLE, errors="replace")
            block += literal_header(b"grpc-message", text.encode("ascii"))
        block += _encoded(call.trailing_metadata())
        if not call.initial:
            call.initial = True
            block = _INITIAL + block
        call.trailers = block
        if not call.pending:
            self._finish_sending(call)

    def over(self, call: ServedCall) -> None:
        """The handler's task has ended."""
        call.task = None
        if call.ended:
            self._ending -= 1
            self._close_if_done()

    def _refuse(self, call: ServedCall, code: grpc.StatusCode, details: str) -> None:
        """End a call without, or against, its handler."""
        self.finish(call, code, details)
        if call.task is not None:
            self._door.cancel_call(call)

    def _send_initial(self, call: ServedCall) -> None:
        if not call.initial:
            call.initial = True
            self._write(frame(frames.HEADERS, frames.END_HEADERS, call.stream, _INITIAL))

    def _queue(self, call: ServedCall) -> None:
        if call.pending and not call.queued and call.send_window > 0:
            call.queued = True
            self._blocked.append(call)

    def _pump(self) -> None:
        """Send what the caller has room for, in turns of a frame."""
        blocked = self._blocked
        while blocked and self._send_window > 0 and not self._paused:
            call = blocked.popleft()
            call.queued = False
            # A setting may have taken room back that the call had when it was queued.
            if call.ended or not call.pending or call.send_window <= 0:
                continue
            self._send_piece(call)
            if call.pending:
                self._queue(call)
            elif call.trailers is not None:
                self._finish_sending(call)
            if call.pending_bytes <= _AHEAD:
                call.wake_writer()

    def _send_piece(self, call: ServedCall) -> None:
        room = min(self._frame_size, self._send_window, call.send_window)
        pieces, size = take_pieces(call.pending, room)
        call.pending_bytes -= size
        self._send_window -= size
        call.send_window -= size
        self._moved = self._heard = self._loop.time()
        self._noise = 0
        self._door.held -= min(call.held, size)
        call.held -= min(call.held, size)
        head = frame_head(frames.DATA, 0, call.stream, size)
        if self._transport is not None:
            self._outgoing.writelines([head, *pieces])

    def _finish_sending(self, call: ServedCall) -> None:
        block = call.trailers or b""
        flags = frames.END_HEADERS | frames.END_STREAM
        self._write(frame(frames.HEADERS, flags, call.stream, block))
        if not call.request_ended:
            self._reset(call.stream, frames.ERROR_NONE)
        self._over(call)

    def _over(self, call: ServedCall) -> None:
        """The call's stream is closed; its handler may still have to end."""
        call.ended = True
        self._noise = 0
        if self._cancelled:
            self._cancelled -= 1
        self._forget(call)
        if not self._calls:
            # No other answer could leave with it.
            self.flush()

    def _drop(self, call: ServedCall) -> None:
        """The call's stream is gone: end the work for it."""
        call.ended = True
        self._forget(call)
        call.pending.clear()
        call.wake_reader()
        call.wake_writer()
        if call.task is not None:
            self._door.cancel_call(call)

    def _forget(self, call: ServedCall) -> None:
        if self._calls.pop(call.stream, None) is None:
            return
        if call.task is not None:
            self._ending += 1
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        self._door.held -= call.held
        call.held = 0
        # The rest of its frame may still come, or never.
        call.reader = None
        if self._draining:
            self._close_if_done()

    # The connection's end.

    def _reset(self, stream: int, code: int) -> None:
        self._reset_streams[stream] = None
        if len(self._reset_streams) > _RESETS_REMEMBERED:
            forgotten = next(iter(self._reset_streams))
            del self._reset_streams[forgotten]
            self._reset_before = max(self._reset_before, forgotten)
        self._write(frame(frames.RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    def _was_reset(self, stream: int) -> bool:
        """Whether we reset a stream that is over: its caller may have sent on before it heard so.

        Only the last resets are remembered; of streams before those it is taken to be so.
        """
        return stream <= self._reset_before or stream in self._reset_streams

    def _fail(self, code: int, text: str) -> None:
        """Tell the caller what it did, and close; its calls are cancelled."""
        self._write(go_away(self._last_stream, code, text))
        self._close()

    def _close(self) -> None:
        self._closing_since = self._loop.time()
        for call in list(self._calls.values()):
            self._drop(call)
        if self._transport is not None:
            self._outgoing.flush()
            self._transport.close()

    def _close_if_done(self) -> None:
        if self._refusing and not self._calls and not self._ending and self._closing_since is None:
            self._close()

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            return
        if self._paused and self._transport.get_write_buffer_size() > 2 * self._limits.write_buffer:
            # Even short answers are not read.
            self._closing_since = self._loop.time()
            self._transport.abort()
            return
        self._outgoing.write(data)


def go_away(last_stream: int, code: int, text: str = "") -> bytes:
    """A GOAWAY frame."""
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()
    return frame(frames.GOAWAY, 0, 0, payload)


def _encoded(metadata: Metadata) -> bytes:
    """Metadata as it stands in a block of headers."""
    parts = []
    for key, value in metadata:
        if key.endswith("-bin"):
            data = value if isinstance(value, bytes) else value.encode()
            text = base64.b64encode(data).rstrip(b"=")
        else:
            text = value.encode() if isinstance(value, str) else value
        parts.append(literal_header(key.encode(), text))
    return b"".join(parts)
