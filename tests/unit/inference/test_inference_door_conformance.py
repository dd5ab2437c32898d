"""The door against another's HTTP/2: `h2` is the caller, `hyperframe` writes and reads the frames.

What `h2` does must be understood, and what the door sends must be what its state machine expects:
it raises where a frame, a window or a header is not. The table of `door_breaches` breaks RFC 9113's
rules one by one, by section, and says what the door owes: an error of the connection, of the
stream, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from services.inference.adapters.wire.door import WireDoor
from services.inference.adapters.wire.limits import WireLimits
from tests.unit.inference.door_breaches import (
    ANSWERED,
    CASES,
    FLOW,
    GIVEN_UP,
    IDLE,
    PROTOCOL,
    UNFINISHED,
    WAITING,
    Case,
    frame,
    request,
    setting,
    window,
)
from tests.unit.inference.door_peer import (
    COUNT,
    EACH,
    ECHO,
    HEAD,
    LIMITS,
    SUM,
    EchoService,
    Peer,
    body,
    open_door,
    turns,
)


class Caller:
    """`h2`'s client at a door, without a socket between them."""

    def __init__(self, door: WireDoor) -> None:
        self.peer = Peer(door, greet=False)
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.events: list[Event] = []

    async def exchange(self) -> list[Event]:
        """Send what `h2` has to send, and give it what the door answers; what it made of it."""
        before = len(self.events)
        while True:
            self.peer.send(self.http.data_to_send())
            await turns()
            self.peer.connection.flush()
            answered = bytes(self.peer.wire.sent)
            self.peer.wire.sent.clear()
            if not answered:
                return self.events[before:]
            self.events += self.http.receive_data(answered)

    def begin(self, path: str, *more: tuple[str, str], end: bool = False) -> int:
        stream: int = self.http.get_next_available_stream_id()
        headers = [*(dict(HEAD) | {":path": path}).items(), *more]
        self.http.send_headers(stream, headers, end_stream=end)
        return stream

    def call(self, path: str, message: bytes, *more: tuple[str, str]) -> int:
        stream = self.begin(path, *more)
        self.http.send_data(stream, body(message), end_stream=True)
        return stream

    def data(self, stream: int) -> bytes:
        """What came of a stream's body so far."""
        return b"".join(
            event.data or b""
            for event in self.events
            if isinstance(event, DataReceived) and event.stream_id == stream
        )

    def status(self, stream: int) -> str | None:
        """The status with which a call has ended."""
        for event in self.events:
            if isinstance(event, TrailersReceived) and event.stream_id == stream:
                assert any(
                    isinstance(one, StreamEnded) and one.stream_id == stream for one in self.events
                )
                return dict(event.headers or ())["grpc-status"]
        return None


@pytest.fixture
async def caller(door: WireDoor) -> Any:
    caller = Caller(door)
    await caller.exchange()
    yield caller
    caller.peer.leave()
    await turns()


# What another's implementation does is understood.


async def test_calls_of_each_kind(caller: Caller) -> None:
    echo = caller.call(ECHO, b"hello")
    count = caller.call(COUNT, b"3")
    each = caller.begin(EACH)
    total = caller.begin(SUM)
    for number in (b"1", b"22"):
        caller.http.send_data(each, body(number))
        caller.http.send_data(total, body(number))
    caller.http.end_stream(each)
    caller.http.end_stream(total)
    await caller.exchange()
    assert caller.data(echo) == body(b"hello")
    assert caller.data(count) == body(b"0 ") + body(b"1 ") + body(b"2 ")
    assert caller.data(each) == body(b"1") + body(b"22")
    assert caller.data(total) == body(b"23")
    assert {caller.status(stream) for stream in (echo, count, each, total)} == {"0"}


async def test_each_frame_of_settings_is_acknowledged(caller: Caller) -> None:
    caller.http.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0, SettingCodes.ENABLE_PUSH: 0})
    caller.http.update_settings({SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 20})
    events = await caller.exchange()
    acknowledged = [event for event in events if isinstance(event, SettingsAcknowledged)]
    assert len(acknowledged) == 2


async def test_a_ping_comes_back_as_it_was(caller: Caller) -> None:
    caller.http.ping(b"\0\xff234567")
    (event,) = await caller.exchange()
    assert isinstance(event, PingAckReceived)
    assert event.ping_data == b"\0\xff234567"


async def test_padding_and_priority_are_passed_over(caller: Caller) -> None:
    stream = caller.http.get_next_available_stream_id()
    headers = list(HEAD)
    caller.http.send_headers(stream, headers, priority_weight=7, priority_exclusive=True)
    caller.http.prioritize(stream, weight=256)
    caller.http.prioritize(stream + 100, depends_on=stream)
    caller.http.send_data(stream, body(b"padded")[:4], pad_length=0)
    caller.http.send_data(stream, body(b"padded")[4:], end_stream=True, pad_length=255)
    await caller.exchange()
    assert caller.data(stream) == body(b"padded")


async def test_headers_go_on_in_continuations(caller: Caller, service: EchoService) -> None:
    caller.http.max_outbound_frame_size = 300
    stream = caller.call(ECHO, b"a", ("x-long", "x" * 3000))
    await caller.exchange()
    assert caller.status(stream) == "0"
    assert ("x-long", "x" * 3000) in service.seen


async def test_a_table_of_headers_changes_its_size(caller: Caller, service: EchoService) -> None:
    for size in (0, 4096, 60, 100, 4096):
        caller.http.encoder.header_table_size = size
        for value in ("one", "two", "one"):
            stream = caller.call(ECHO, b"a", ("x-value", value), ("x-size", str(size)))
            await caller.exchange()
            assert caller.status(stream) == "0"
            assert {("x-value", value), ("x-size", str(size))} <= set(service.seen)


async def test_a_request_ends_with_trailers(caller: Caller) -> None:
    stream = caller.begin(ECHO)
    caller.http.send_data(stream, body(b"a"))
    caller.http.send_headers(stream, [("x-checksum", "1")], end_stream=True)
    await caller.exchange()
    assert caller.status(stream) == "0"


async def test_a_body_larger_than_every_window_is_taken(caller: Caller) -> None:
    """30 MB up and down: each of the four windows is used up many times over."""
    stream = caller.begin(EACH)
    message = body(b"x" * 99_995)
    for _ in range(300):
        assert caller.http.local_flow_control_window(stream) >= len(message)
        caller.http.send_data(stream, message)
        while arrived := [one for one in await caller.exchange() if isinstance(one, DataReceived)]:
            size = sum(one.flow_controlled_length or 0 for one in arrived)
            caller.http.acknowledge_received_data(size, stream)
    caller.http.end_stream(stream)
    await caller.exchange()
    assert caller.status(stream) == "0"
    assert len(caller.data(stream)) == 300 * len(message)


async def test_a_response_keeps_to_the_windows(caller: Caller) -> None:
    """`h2` raises where more came than its windows have room for."""
    caller.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await caller.exchange()
    stream = caller.call(ECHO, b"size 1000")
    await caller.exchange()
    assert (caller.data(stream), caller.status(stream)) == (b"", None)
    caller.http.increment_flow_control_window(10, stream)
    await caller.exchange()
    assert len(caller.data(stream)) == 10
    caller.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 500})
    await caller.exchange()
    assert len(caller.data(stream)) == 510
    caller.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    caller.http.increment_flow_control_window(400, stream)
    events = await caller.exchange()
    assert not [event for event in events if isinstance(event, DataReceived)], "the window is 0"
    caller.http.increment_flow_control_window(1000, stream)
    await caller.exchange()
    assert (len(caller.data(stream)), caller.status(stream)) == (1005, "0")


async def test_a_window_below_nothing_is_waited_for(door: WireDoor) -> None:
    """RFC 9113, section 6.9.2, also of a call that waits for the connection's window at the time;
    `h2` itself cannot take a window back."""
    peer = Peer(door)
    peer.send(peer.call(1, b"size 65000") + peer.call(3, b"size 65000"))
    await turns()
    assert sum(len(one.data) for one in frames_of(peer) if isinstance(one, DataFrame)) == 65_535
    peer.send(setting(4, 10) + window(0, 1 << 20))
    assert not [one for one in frames_of(peer) if isinstance(one, DataFrame)]
    peer.send(window(1, 1 << 20) + window(3, 1 << 20))
    assert sum(len(one.data) for one in frames_of(peer) if isinstance(one, DataFrame)) == 64_475
    peer.leave()


@pytest.mark.parametrize("largest", [16_384, 20_000, 1 << 20])
async def test_frames_are_no_larger_than_the_caller_takes(caller: Caller, largest: int) -> None:
    caller.http.update_settings(
        {SettingCodes.MAX_FRAME_SIZE: largest, SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20}
    )
    caller.http.increment_flow_control_window(1 << 20)
    await caller.exchange()
    stream = caller.call(ECHO, b"size 500000")
    await caller.exchange()
    sizes = [len(event.data or b"") for event in caller.events if isinstance(event, DataReceived)]
    assert (sum(sizes), caller.status(stream)) == (500_005, "0")
    assert max(sizes) <= largest


async def test_a_reset_ends_one_call(caller: Caller, service: EchoService) -> None:
    reset, other = caller.call(ECHO, b"wait"), caller.call(ECHO, b"wait")
    await caller.exchange()
    caller.http.reset_stream(reset, ErrorCodes.CANCEL)
    await caller.exchange()
    assert (service.cancelled, service.running) == (1, 1)
    service.go.set()
    await caller.exchange()
    assert caller.status(other) == "0"


async def test_a_caller_that_goes_away_gets_its_answers(
    caller: Caller, service: EchoService
) -> None:
    """`h2` itself takes nothing more once either side has said goodbye."""
    stream = caller.call(ECHO, b"wait")
    await caller.exchange()
    caller.peer.send(frame(GoAwayFrame(0)))
    service.go.set()
    await turns()
    sent = list(frames_of(caller.peer))
    assert [one.data for one in sent if isinstance(one, DataFrame)] == [body(b"wait")]
    assert [one.last_stream_id for one in sent if isinstance(one, GoAwayFrame)] == [stream]
    assert caller.peer.wire.closed


async def test_a_door_that_closes_says_which_calls_it_has_taken(
    caller: Caller, service: EchoService
) -> None:
    stream = caller.call(ECHO, b"wait")
    await caller.exchange()
    caller.peer.connection.drain()
    caller.peer.connection.refuse_more()
    service.go.set()
    caller.peer.connection.flush()
    await turns()
    told = [one for one in frames_of(caller.peer) if isinstance(one, GoAwayFrame)]
    assert [(one.last_stream_id, one.error_code) for one in told] == [(2**31 - 1, 0), (stream, 0)]
    assert caller.peer.wire.closed


# What breaks a rule gets the error that the rule asks for.


def frames_of(peer: Peer) -> Iterator[Frame]:
    """What the door has sent since the last look."""
    peer.connection.flush()
    view = memoryview(bytes(peer.wire.sent))
    peer.wire.sent.clear()
    while view:
        made, length = Frame.parse_frame_header(view[:9])
        made.parse_body(view[9 : 9 + length])
        view = view[9 + length :]
        yield made


async def prepared(door: WireDoor) -> Peer:
    """A caller with a stream in each state."""
    peer = Peer(door, greet=False)
    http = H2Connection(H2Configuration(client_side=True))
    http.initiate_connection()
    for stream, path, message in (
        (WAITING, ECHO, b"wait"),
        (UNFINISHED, SUM, None),
        (ANSWERED, ECHO, b"answered"),
        (GIVEN_UP, "/no.such/Method", None),
    ):
        http.send_headers(stream, list((dict(HEAD) | {":path": path}).items()))
        if message is not None:
            http.send_data(stream, body(message), end_stream=True)
    peer.send(http.data_to_send())
    await turns()
    peer.encoder = http.encoder
    answered = {one.stream_id for one in frames_of(peer) if isinstance(one, HeadersFrame)}
    assert answered == {ANSWERED, GIVEN_UP}
    return peer


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.what}")
async def test_a_breach_gets_the_error_that_its_section_asks_for(
    door: WireDoor, service: EchoService, case: Case
) -> None:
    peer = await prepared(door)
    peer.send(case.sent if isinstance(case.sent, bytes) else case.sent(peer.encoder))
    await turns()
    sent = list(frames_of(peer))
    ends = [one.error_code for one in sent if isinstance(one, GoAwayFrame)]
    resets = {one.stream_id: one.error_code for one in sent if isinstance(one, RstStreamFrame)}
    if case.error is not None and not case.stream:
        assert ends == [case.error]
        assert peer.wire.closed
        assert service.running == 0
        return
    assert ends == []
    assert resets == ({} if case.error is None else {case.stream: case.error})
    await still_answers(peer)
    peer.leave()
    await turns()


async def still_answers(peer: Peer) -> None:
    """The connection goes on: its headers mean what they meant, and other streams live."""
    peer.send(
        request(stream=IDLE, path=ECHO)(peer.encoder)
        + frame(DataFrame(IDLE, body(b"still"), flags=["END_STREAM"]))
    )
    await turns()
    got = [one for one in frames_of(peer) if one.stream_id == IDLE]
    assert [one.data for one in got if isinstance(one, DataFrame)] == [body(b"still")]


@pytest.mark.parametrize(
    ("limits", "scope"),
    [
        (replace(LIMITS, stream_window=70_000), UNFINISHED),
        (replace(LIMITS, connection_window=80_000), 0),
    ],
    ids=["the stream", "the connection"],
)
async def test_more_data_than_a_window_is_refused(
    service: EchoService, limits: WireLimits, scope: int
) -> None:
    """RFC 9113, section 6.9.1."""
    door = open_door(service, limits=limits, drain_seconds=0.1)
    peer = await prepared(door)
    peer.send(frame(DataFrame(UNFINISHED, bytes(80_001))))
    errors = [
        (one.stream_id, one.error_code)
        for one in frames_of(peer)
        if isinstance(one, (GoAwayFrame, RstStreamFrame))
    ]
    assert errors == [(scope, FLOW)]
    peer.leave()
    await door.stop()


@pytest.mark.parametrize(
    "sent",
    [
        frame(PingFrame(0, b"12345678")),
        frame(SettingsFrame(0, flags=["ACK"])),
        request(stream=1)(Encoder()),
    ],
    ids=["a ping", "an acknowledgement", "headers"],
)
async def test_settings_come_first(door: WireDoor, sent: bytes) -> None:
    """RFC 9113, section 3.4."""
    peer = Peer(door, greet=False)
    peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + sent)
    assert [one.error_code for one in frames_of(peer) if isinstance(one, GoAwayFrame)] == [PROTOCOL]
    assert peer.wire.closed


async def test_more_streams_than_the_setting_are_refused(caller: Caller) -> None:
    """RFC 9113, section 5.1.2; `h2` itself would not begin them."""
    for _ in range(LIMITS.streams):
        caller.call(ECHO, b"wait")
    await caller.exchange()
    refused = caller.http.get_next_available_stream_id()
    caller.peer.send(request(stream=refused)(caller.http.encoder))
    told = [one for one in frames_of(caller.peer) if isinstance(one, RstStreamFrame)]
    assert [(one.stream_id, one.error_code) for one in told] == [
        (refused, ErrorCodes.REFUSED_STREAM)
    ]


async def test_a_list_of_headers_over_the_setting_is_refused(caller: Caller) -> None:
    """RFC 9113, section 6.5.2: it ends the connection, for its block would have to be kept."""
    caller.call(ECHO, b"a", *((f"x-{number}", "x" * 100) for number in range(150)))
    events = await caller.exchange()
    (end,) = [event for event in events if isinstance(event, ConnectionTerminated)]
    assert end.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert not [event for event in events if isinstance(event, StreamReset)]
