"""Breaches of HTTP/2's rules, by the sections of RFC 9113; another's implementation writes them.

`test_inference_door_conformance` sends each to a door and looks for the error that is due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)

from services.inference.adapters.wire.caller import LARGEST_FRAME
from tests.unit.inference.door_peer import HEAD, SUM, body

PROTOCOL = ErrorCodes.PROTOCOL_ERROR
FLOW = ErrorCodes.FLOW_CONTROL_ERROR
CLOSED = ErrorCodes.STREAM_CLOSED
SIZE = ErrorCodes.FRAME_SIZE_ERROR
COMPRESSION = ErrorCodes.COMPRESSION_ERROR


def frame(made: Frame, *, flag_byte: int | None = None) -> bytes:
    """A frame's bytes; `flag_byte` in place of its flags."""
    data: bytes = made.serialize()
    return data if flag_byte is None else data[:4] + bytes((flag_byte,)) + data[5:]


def raw(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """A frame that `hyperframe` would not write."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


WAITING, UNFINISHED, SKIPPED, ANSWERED, GIVEN_UP, NEW, IDLE = 1, 3, 5, 7, 9, 11, 21
"""Streams: one whose request has ended, one whose has not, one that was never begun though later
ones were, one that is over, one that the door has reset, the next one, and one beyond it."""


@dataclass(frozen=True)
class Case:
    """Frames that a caller sends, and what they lead to."""

    section: str
    what: str
    sent: bytes | Callable[[Encoder], bytes]
    error: ErrorCodes | None = None
    stream: int = 0
    """Whose error it is; the connection's when 0."""


def request(
    *changes: tuple[str, str | None],
    stream: int = NEW,
    flags: tuple[str, ...] = ("END_HEADERS",),
    path: str = SUM,
    first: tuple[tuple[str, str], ...] = (),
    last: tuple[tuple[str, str], ...] = (),
) -> Callable[[Encoder], bytes]:
    """HEADERS of a call; a change replaces a header, adds it, or leaves it out where None."""
    given = dict(HEAD) | {":path": path} | dict(changes)
    headers = [(name, value) for name, value in given.items() if value is not None]

    def made(encoder: Encoder) -> bytes:
        return frame(HeadersFrame(stream, encoder.encode([*first, *headers, *last]), flags=flags))

    return made


def headers(
    *listed: tuple[str, str], stream: int, flags: tuple[str, ...] = ("END_HEADERS", "END_STREAM")
) -> Callable[[Encoder], bytes]:
    """HEADERS with these alone."""
    return lambda encoder: frame(HeadersFrame(stream, encoder.encode(listed), flags=flags))


def block(data: bytes) -> bytes:
    """HEADERS of the next stream with a block as it stands."""
    return frame(HeadersFrame(NEW, data, flags=["END_HEADERS", "END_STREAM"]))


def setting(code: int, value: int) -> bytes:
    return raw(4, code.to_bytes(2, "big") + value.to_bytes(4, "big"))


def window(stream: int, by: int) -> bytes:
    return raw(8, by.to_bytes(4, "big"), stream=stream)


CASES = [
    Case("4.1", "an unknown type of frame", raw(0xEE, b"any", flags=0xFF)),
    Case("4.1", "a long unknown frame", raw(0xEE, bytes(100_000), stream=UNFINISHED)),
    Case("4.1", "undefined flags", frame(PingFrame(0, b"12345678"), flag_byte=0xFE)),
    Case("4.1", "the reserved bit", raw(8, b"\x80\0\0\x01", stream=UNFINISHED)),
    Case("4.2", "data over the size", raw(0, bytes(LARGEST_FRAME + 1), stream=UNFINISHED), SIZE),
    Case("4.2", "settings over the size", raw(4, bytes(LARGEST_FRAME + 2)), SIZE),
    Case("4.3", "an index of nothing", block(b"\x80"), COMPRESSION),
    Case("4.3", "an index beyond the table", block(b"\xff\x50"), COMPRESSION),
    Case("4.3", "a text beyond the block", block(b"\0\x7fabc"), COMPRESSION),
    Case("4.3", "a number without end", block(b"\xff" * 12), COMPRESSION),
    Case("4.3", "Huffman's padding over 7 bits", block(b"\0\x81\xff\0"), COMPRESSION),
    Case("4.3", "Huffman's end of string", block(b"\0\x84\xff\xff\xff\xff\0"), COMPRESSION),
    Case("4.3", "a table over the setting", block(b"\x3f\xe2\x1f"), COMPRESSION),
    Case("4.3", "a table's size amid a block", block(b"\x83\x20"), COMPRESSION),
    Case("5.1", "idle: data", frame(DataFrame(IDLE, b"x")), PROTOCOL),
    Case("5.1", "idle: a reset", frame(RstStreamFrame(IDLE)), PROTOCOL),
    Case("5.1", "idle: a window", window(IDLE, 1), PROTOCOL),
    Case("5.1", "idle: a window of the door's side", window(2, 1), PROTOCOL),
    Case("5.1", "idle: a priority", frame(PriorityFrame(IDLE, depends_on=3))),
    Case("5.1", "ended: data", frame(DataFrame(WAITING, b"x")), CLOSED, WAITING),
    Case("5.1", "ended: headers", headers(("a", "b"), stream=WAITING), CLOSED, WAITING),
    Case("5.1", "ended: a window", window(WAITING, 1)),
    Case("5.1", "over: data", frame(DataFrame(ANSWERED, b"x")), CLOSED, ANSWERED),
    Case("5.1", "over: headers", headers(("a", "b"), stream=ANSWERED), CLOSED),
    Case("5.1", "over: a window", window(ANSWERED, 1)),
    Case("5.1", "over: a reset", frame(RstStreamFrame(ANSWERED))),
    Case("5.1", "over: a priority", frame(PriorityFrame(ANSWERED))),
    # What was on its way when the door reset the stream is passed over.
    Case("5.1", "reset: data", frame(DataFrame(GIVEN_UP, b"x", flags=["END_STREAM"]))),
    Case("5.1", "reset: trailers", headers(("a", "b"), stream=GIVEN_UP)),
    Case("5.1", "reset: a window", window(GIVEN_UP, 1)),
    Case("5.1.1", "a stream of the door's side", request(stream=2), PROTOCOL),
    Case("5.1.1", "a stream that was skipped", request(stream=SKIPPED), CLOSED),
    Case("5.1.1", "data on one of the door's", frame(DataFrame(2, b"x")), PROTOCOL),
    Case("6.1", "data of the connection", raw(0, b"x"), PROTOCOL),
    Case("6.1", "more padding than data", raw(0, b"\x05abc", stream=3, flags=8), PROTOCOL),
    Case("6.1", "padding without length", raw(0, b"", stream=UNFINISHED, flags=8), SIZE),
    Case("6.2", "headers of the connection", raw(1, b"\x83", flags=5), PROTOCOL),
    Case("6.2", "more padding than headers", raw(1, b"\x09\x83", stream=NEW, flags=13), PROTOCOL),
    Case("6.2", "a priority that is cut", raw(1, b"\0\0\0", stream=NEW, flags=37), SIZE),
    Case("6.3", "a priority of the connection", raw(2, bytes(5)), PROTOCOL),
    Case("6.3", "a short priority", raw(2, bytes(4), stream=UNFINISHED), SIZE, UNFINISHED),
    Case("6.4", "a reset of the connection", raw(3, bytes(4)), PROTOCOL),
    Case("6.4", "a short reset", raw(3, bytes(3), stream=UNFINISHED), SIZE),
    Case("6.4", "an unknown reason", raw(3, b"\0\0\xff\xff", stream=GIVEN_UP)),
    Case("6.5", "settings of a stream", raw(4, b"", stream=UNFINISHED), PROTOCOL),
    Case("6.5", "settings that are cut", raw(4, bytes(5)), SIZE),
    Case("6.5", "an acknowledgement that says more", raw(4, bytes(6), flags=1), SIZE),
    Case("6.5.2", "push of 2", setting(2, 2), PROTOCOL),
    Case("6.5.2", "too large a window", setting(4, 2**31), FLOW),
    Case("6.5.2", "too small a frame", setting(5, 16_383), PROTOCOL),
    Case("6.5.2", "too large a frame", setting(5, 2**24), PROTOCOL),
    Case("6.5.2", "an unknown setting", setting(0xABCD, 7)),
    Case("6.5.3", "none at all", frame(SettingsFrame(0))),
    Case("6.6", "a push", frame(PushPromiseFrame(3, 4, b"\x83", flags=["END_HEADERS"])), PROTOCOL),
    Case("6.7", "a ping of a stream", raw(6, bytes(8), stream=UNFINISHED), PROTOCOL),
    Case("6.7", "a short ping", raw(6, bytes(7)), SIZE),
    Case("6.7", "an answer to no ping", frame(PingFrame(0, b"12345678", flags=["ACK"]))),
    Case("6.8", "a goodbye of a stream", raw(7, bytes(8), stream=UNFINISHED), PROTOCOL),
    Case("6.8", "a short goodbye", raw(7, bytes(7)), SIZE),
    Case("6.9", "nothing for the connection", window(0, 0), PROTOCOL),
    Case("6.9", "nothing for a stream", window(UNFINISHED, 0), PROTOCOL, UNFINISHED),
    Case("6.9", "a short window", raw(8, bytes(3), stream=UNFINISHED), SIZE),
    Case("6.9.1", "too much for the connection", window(0, 2**31 - 1), FLOW),
    Case("6.9.1", "too much for a stream", window(WAITING, 2**31 - 1), FLOW, WAITING),
    Case("6.9.2", "a setting that overflows", window(WAITING, 2**30) + setting(4, 2**31 - 1), FLOW),
    Case("6.10", "a continuation of nothing", frame(ContinuationFrame(UNFINISHED)), PROTOCOL),
    Case(
        "6.10",
        "a continuation after the end",
        lambda encoder: request()(encoder) + frame(ContinuationFrame(NEW, flags=["END_HEADERS"])),
        PROTOCOL,
    ),
    Case(
        "6.10",
        "another frame amid headers",
        lambda encoder: request(flags=())(encoder) + frame(PingFrame(0, b"12345678")),
        PROTOCOL,
    ),
    Case(
        "6.10",
        "another stream amid headers",
        lambda encoder: request(flags=())(encoder) + frame(ContinuationFrame(IDLE)),
        PROTOCOL,
    ),
    Case(
        "8.1",
        "trailers that do not end",
        headers(("a", "b"), stream=UNFINISHED, flags=("END_HEADERS",)),
        PROTOCOL,
        UNFINISHED,
    ),
    Case("8.1", "a pseudo-header last", headers((":path", "/"), stream=UNFINISHED), PROTOCOL, 3),
    Case("8.1", "a wrong name last", headers(("A", "b"), stream=UNFINISHED), PROTOCOL, UNFINISHED),
    Case(
        "8.1.1",
        "less data than declared",
        lambda encoder: (
            request(("content-length", "9"))(encoder)
            + frame(DataFrame(NEW, body(b"1"), flags=["END_STREAM"]))
        ),
        PROTOCOL,
        NEW,
    ),
    Case("8.2", "a name with capitals", request(last=(("X-Name", "1"),)), PROTOCOL, NEW),
    Case("8.2.1", "a name with a space", request(last=(("x name", "1"),)), PROTOCOL, NEW),
    Case("8.2.1", "no name", request(last=(("", "1"),)), PROTOCOL, NEW),
    Case("8.2.1", "a line's end in a value", request(last=(("x", "1\r\ny: 2"),)), PROTOCOL, NEW),
    Case("8.2.1", "a zero in a value", request(last=(("x", "1\0"),)), PROTOCOL, NEW),
    # gRPC's protocol lets such a value be stripped, and its callers send it.
    Case("8.2.1", "a space around a value", request(last=(("x", " 1 "),))),
    Case("8.2.2", "connection", request(("connection", "close")), PROTOCOL, NEW),
    Case("8.2.2", "transfer-encoding", request(("transfer-encoding", "chunked")), PROTOCOL, NEW),
    Case("8.2.2", "upgrade", request(("upgrade", "h3")), PROTOCOL, NEW),
    Case("8.2.2", "te for other than trailers", request(("te", "gzip")), PROTOCOL, NEW),
    Case("8.3", "an unknown pseudo-header", request(first=((":who", "me"),)), PROTOCOL, NEW),
    Case("8.3", "a response's", request(first=((":status", "200"),)), PROTOCOL, NEW),
    Case("8.3", "one after the others", request(last=((":authority", "b"),)), PROTOCOL, NEW),
    Case("8.3.1", "no method", request((":method", None)), PROTOCOL, NEW),
    Case("8.3.1", "no scheme", request((":scheme", None)), PROTOCOL, NEW),
    Case("8.3.1", "no path", request((":path", None)), PROTOCOL, NEW),
    Case("8.3.1", "an empty path", request((":path", "")), PROTOCOL, NEW),
    Case("8.3.1", "two paths", request(first=((":path", "/a"),)), PROTOCOL, NEW),
    Case("8.5", "a tunnel", request((":method", "CONNECT"), (":path", None)), PROTOCOL, NEW),
]
