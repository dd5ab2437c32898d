"""The door in frames: what HTTP/2 and gRPC ask of a server."""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Any

import grpc
import pytest
import uvloop

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.door import WireDoor
from services.inference.adapters.wire.frames import frame
from services.inference.adapters.wire.limits import WireLimits
from tests.helpers import eventually
from tests.unit.inference.door_peer import (
    COUNT,
    EACH,
    END,
    HEAD,
    LIMITS,
    SUM,
    EchoService,
    Peer,
    answer,
    body,
    open_door,
    turns,
)

# What a server must take.


async def test_a_call_is_answered(peer: Peer) -> None:
    got = await answer(peer, peer.call(1, b"hello"))
    assert got[""] == body(b"hello")
    assert (got[":status"], got["content-type"], got["grpc-status"]) == (
        "200",
        "application/grpc",
        "0",
    )


async def test_the_only_answer_does_not_wait_for_the_end_of_the_turn(peer: Peer) -> None:
    peer.send(peer.call(1, b"hello"))
    await turns(1)
    assert peer.wire.writes == 1
    assert peer.answers()[1]["grpc-status"] == "0"


async def test_answers_of_one_turn_leave_together(peer: Peer) -> None:
    peer.send(peer.call(1, b"hello") + peer.call(3, b"hello") + peer.call(5, b"wait"))
    await turns(1)
    assert peer.wire.writes == 0
    await turns(1)
    assert peer.wire.writes == 1
    assert set(peer.answers()) == {1, 3}


async def test_bytes_may_come_one_at_a_time(door: WireDoor) -> None:
    peer = Peer(door, greet=False)
    whole = frames.PREFACE + frame(frames.SETTINGS, 0, 0) + peer.call(1, b"hello" * 9)
    for index in range(len(whole)):
        peer.send(whole[index : index + 1])
    await turns()
    assert peer.answers()[1][""] == body(b"hello" * 9)
    peer.leave()


async def test_padding_and_priority_are_passed_over(peer: Peer) -> None:
    block = peer.encoder.encode(list(HEAD))
    padded = b"\x03" + b"\0\0\0\0\x10" + block + b"\0\0\0"
    data = b"\x02" + body(b"hello") + b"\0\0"
    got = await answer(
        peer,
        frame(frames.HEADERS, 4 | frames.PADDED | frames.WITH_PRIORITY, 1, padded)
        + frame(frames.PRIORITY, 0, 1, b"\0\0\0\0\x10")
        + frame(frames.DATA, 1 | frames.PADDED, 1, data),
    )
    assert got[""] == body(b"hello")


async def test_headers_may_go_on_in_continuations(peer: Peer) -> None:
    block = peer.encoder.encode(list(HEAD))
    got = await answer(
        peer,
        frame(frames.HEADERS, 0, 1, block[:7])
        + frame(frames.CONTINUATION, 0, 1, block[7:20])
        + frame(frames.CONTINUATION, 4, 1, block[20:])
        + frame(frames.DATA, 1, 1, body(b"hello")),
    )
    assert got["grpc-status"] == "0"


async def test_a_body_may_come_in_many_frames_and_end_with_an_empty_one(peer: Peer) -> None:
    whole = body(b"0123456789" * 1000)
    pieces = [whole[:3], whole[3:5], whole[5:6000], whole[6000:]]
    sent = b"".join(frame(frames.DATA, 0, 1, piece) for piece in pieces)
    got = await answer(peer, peer.headers(1) + sent + frame(frames.DATA, 1, 1))
    assert got[""] == whole


async def test_a_request_may_end_with_trailers(peer: Peer) -> None:
    trailers = peer.encoder.encode([("x-end", "yes")])
    start = peer.headers(1) + frame(frames.DATA, 0, 1, body(b"hello"))
    got = await answer(peer, start + frame(frames.HEADERS, END, 1, trailers))
    assert got["grpc-status"] == "0"


async def test_pings_and_settings_are_acknowledged(peer: Peer) -> None:
    peer.send(frame(frames.PING, 0, 0, b"12345678") + frame(frames.SETTINGS, 0, 0))
    assert [(kind, flags, payload) for kind, flags, _, payload in peer.frames()] == [
        (frames.PING, frames.ACK, b"12345678"),
        (frames.SETTINGS, frames.ACK, b""),
    ]


async def test_unknown_frames_and_settings_are_passed_over(peer: Peer) -> None:
    unknown = frame(0x55, 0xFF, 1, b"what") + frame(
        frames.SETTINGS, 0, 0, frames.settings_payload({0x77: 5})
    )
    assert (await answer(peer, unknown + peer.call(1, b"hello")))["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("given", "seconds"), [("5S", 5), ("100m", 0.1), ("2H", 7200), ("99999999u", 99.999999)]
)
async def test_the_timeout_is_the_handlers(
    peer: Peer, service: EchoService, given: str, seconds: float
) -> None:
    await answer(peer, peer.call(1, b"hello", ("grpc-timeout", given)))
    (left,) = service.left
    assert left is not None
    assert 0 <= left <= seconds
    assert left > seconds - 60


async def test_metadata_reaches_the_handler_and_binary_values_are_decoded(
    peer: Peer, service: EchoService
) -> None:
    value = base64.b64encode(b"\0\xff\x01").decode().rstrip("=")
    await answer(peer, peer.call(1, b"hello", ("x-key", "value"), ("x-bin", f"{value},{value}")))
    assert ("x-key", "value") in service.seen
    assert ("x-bin", b"\0\xff\x01\0\xff\x01") in service.seen
    assert "te" not in dict(service.seen)


async def test_a_failure_is_told_in_trailers_alone(peer: Peer) -> None:
    got = await answer(peer, peer.call(1, "fail NOT_FOUND 50 % über\n".encode()))
    assert got[""] == b""
    assert got["grpc-status"] == "5"
    assert got["grpc-message"] == "50 %25 %C3%BCber%0A"
    assert (got["why"], got["why-bin"]) == ("asked for", "AP8")


async def test_a_handlers_defect_is_not_told(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    got = await answer(peer, peer.call(1, b"raise"))
    assert got["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])
    assert "secret" not in got["grpc-message"]
    assert "a secret" in caplog.text


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_messages_are_taken(peer: Peer, encoding: str, compress: Any) -> None:
    data = body(compress(b"hello" * 100), 1)
    start = peer.headers(1, ("grpc-encoding", encoding))
    got = await answer(peer, start + frame(frames.DATA, 1, 1, data))
    assert got[""] == body(b"hello" * 100)


async def test_a_block_that_was_seen_means_what_the_table_now_says(
    peer: Peer, service: EchoService
) -> None:
    """The same bytes stand for another header once the table has changed."""
    await answer(peer, peer.call(1, b"a", ("x-key", "first")))
    block = peer.encoder.encode([*HEAD, ("x-key", "first")])
    sent = frame(frames.HEADERS, 4, 3, block) + frame(frames.DATA, 1, 3, body(b"a"))
    await answer(peer, sent, 3)
    assert ("x-key", "first") in service.seen
    assert await answer(peer, sent.replace(b"\0\0\0\x03", b"\0\0\0\x05"), 5)
    await answer(peer, peer.call(7, b"a", ("x-key", "second")), 7)
    peer.send(sent.replace(b"\0\0\0\x03", b"\0\0\0\x09"))
    await turns()
    assert ("x-key", "second") in service.seen


# Streams.


async def test_a_response_may_be_many_messages(peer: Peer) -> None:
    got = await answer(peer, peer.call(1, b"3", (":path", COUNT)))
    assert got[""] == b"".join(body(b"%d " % index) for index in range(3))
    assert got["grpc-status"] == "0"


async def test_a_request_may_be_many_messages(peer: Peer) -> None:
    sent = peer.headers(1, (":path", SUM)) + frame(frames.DATA, 0, 1, body(b"1") + body(b"20")[:4])
    peer.send(sent + frame(frames.DATA, 0, 1, body(b"20")[4:]))
    await turns()
    assert (await answer(peer, frame(frames.DATA, 1, 1, body(b"300"))))[""] == body(b"321")


async def test_both_ways_at_once(peer: Peer) -> None:
    peer.send(peer.headers(1, (":path", EACH)))
    for word in (b"a", b"b"):
        peer.send(frame(frames.DATA, 0, 1, body(word)))
        await turns()
        assert peer.answers()[1][""] == body(word)
    assert (await answer(peer, frame(frames.DATA, 1, 1)))["grpc-status"] == "0"


async def test_a_stream_that_ends_within_a_message_fails(peer: Peer) -> None:
    start = peer.headers(1, (":path", SUM))
    got = await answer(peer, start + frame(frames.DATA, 1, 1, body(b"20")[:6]))
    assert got["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])


# Flow control.


async def test_a_response_waits_for_the_callers_windows(door: WireDoor) -> None:
    peer = Peer(door, window=10)
    got = await answer(peer, peer.call(1, b"size 100"))
    assert len(got[""]) == 10
    assert "grpc-status" not in got
    peer.send(frame(frames.WINDOW_UPDATE, 0, 1, (20).to_bytes(4, "big")))
    assert len(peer.answers()[1][""]) == 20
    # A setting widens the streams that are open, too.
    peer.send(frame(frames.SETTINGS, 0, 0, frames.settings_payload({frames.SETTING_WINDOW: 500})))
    got = peer.answers()[1]
    assert len(got[""]) == 75
    assert got["grpc-status"] == "0"
    peer.leave()


async def test_the_connections_window_holds_for_all_calls(door: WireDoor) -> None:
    peer = Peer(door, window=1 << 20)
    peer.send(peer.call(1, b"size 60000") + peer.call(3, b"size 60000"))
    await turns()
    got = peer.answers()
    assert len(got[1][""]) + len(got[3][""]) == frames.DEFAULT_WINDOW
    peer.send(frame(frames.WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
    more = peer.answers()
    assert (
        sum(len(one[stream][""]) for one in (got, more) for stream in (1, 3) if stream in one)
        == 120_010
    )
    assert door.held == 0
    peer.leave()


async def test_a_slow_reader_holds_up_its_stream_and_not_the_memory(door: WireDoor) -> None:
    peer = Peer(door)
    peer.send(peer.call(1, b"1000 100000", (":path", COUNT)))
    await turns(50)
    assert door.held < 2 << 20
    peer.connection.check(peer.now + LIMITS.stall_seconds + 1)
    assert peer.goaway == frames.ERROR_CALM_DOWN
    peer.leave()
    await turns()
    assert (door.held, door.running) == (0, 0)


async def test_a_stream_may_be_silent_between_its_messages_and_not_within_one(
    peer: Peer,
) -> None:
    peer.send(peer.headers(1, (":path", EACH)) + frame(frames.DATA, 0, 1, body(b"first")))
    peer.send(peer.headers(3, (":path", EACH)) + frame(frames.DATA, 0, 3, body(b"first") + b"\0"))
    peer.send(peer.headers(5, (":path", EACH)))
    await turns()
    peer.connection.check(peer.now + LIMITS.stall_seconds + 1)
    got = peer.answers()
    cancelled = str(grpc.StatusCode.CANCELLED.value[0])
    assert "grpc-status" not in got[1]
    assert (got[3]["grpc-status"], got[5]["grpc-status"]) == (cancelled, cancelled)
    peer.connection.check(peer.now + LIMITS.idle_seconds + 1)
    assert peer.answers()[1]["grpc-status"] == cancelled


async def test_callers_get_their_windows_back(peer: Peer) -> None:
    size = LIMITS.stream_window // 2
    peer.send(peer.headers(1, (":path", SUM)))
    for _ in range(size * 5 // 16000):
        message = b"1".rjust(16_000 - 5)
        peer.send(frame(frames.DATA, 0, 1, body(message)))
        await turns(4)
    updates = [stream for kind, _, stream, _ in peer.frames() if kind == frames.WINDOW_UPDATE]
    assert 1 in updates
    peer.send(frame(frames.DATA, 1, 1))
    await turns()
    assert peer.answers()[1]["grpc-status"] == "0"


async def test_a_caller_that_ignores_a_window_is_reset(peer: Peer) -> None:
    peer.send(peer.headers(1, (":path", EACH)) + frame(frames.DATA, 0, 1, body(b"wait")))
    await turns()
    chunk = frame(frames.DATA, 0, 1, body(b"x" * 500_000))
    for _ in range(9):
        peer.send(chunk)
    assert peer.answers()[1]["reset"] == frames.ERROR_FLOW_CONTROL


# Ends of calls.


async def test_a_reset_cancels_the_handler(
    peer: Peer, service: EchoService, door: WireDoor
) -> None:
    peer.send(peer.call(1, b"wait"))
    await turns()
    assert service.running == 1
    peer.send(frame(frames.RST_STREAM, 0, 1, b"\0\0\0\x08"))
    await turns()
    assert (service.running, service.cancelled, door.running, door.held) == (0, 1, 0, 0)


async def test_a_reset_before_the_handler_begins_leaves_nothing(
    peer: Peer, service: EchoService, door: WireDoor
) -> None:
    peer.send(peer.call(1, b"wait") + frame(frames.RST_STREAM, 0, 1, b"\0\0\0\x08"))
    await turns()
    assert (service.running, door.running, door.held, peer.connection.running) == (0, 0, 0, 0)


async def test_a_lost_connection_cancels_its_calls(door: WireDoor, service: EchoService) -> None:
    peer = Peer(door)
    peer.send(peer.call(1, b"wait") + peer.call(3, b"wait") + peer.headers(5))
    await turns()
    peer.leave()
    await turns()
    assert (service.cancelled, door.running, door.held) == (2, 0, 0)


async def test_a_deadline_ends_the_call(peer: Peer, service: EchoService) -> None:
    peer.send(
        peer.call(1, b"wait", ("grpc-timeout", "1n")) + peer.headers(3, ("grpc-timeout", "1n"))
    )
    got: dict[int, Any] = {}
    for _ in range(200):
        await turns()
        for stream, found in peer.answers().items():
            got.setdefault(stream, {}).update(found)
        if len(got) == 2:
            break
    late = str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert [got[stream]["grpc-status"] for stream in (1, 3)] == [late, late]
    assert service.running == 0


def test_a_deadline_is_told_as_one_by_a_loop_whose_timers_are_early() -> None:
    async def codes() -> set[str]:
        door = open_door(EchoService(), limits=WireLimits(streams=400), drain_seconds=0.1)
        peer = Peer(door)
        told: dict[int, str] = {}
        for number in range(400):
            timeout = ("grpc-timeout", f"{1_000 + number * 37}u")
            peer.send(peer.call(2 * number + 1, b"wait", timeout))

        def all_ended() -> bool:
            answers = peer.answers().items()
            told.update({stream: got["grpc-status"] for stream, got in answers})
            return len(told) == 400

        await eventually(all_ended)
        await door.stop()
        return set(told.values())

    assert uvloop.run(codes()) == {str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])}


async def test_a_drain_lets_calls_end_and_takes_no_more(
    peer: Peer, door: WireDoor, service: EchoService
) -> None:
    peer.send(peer.call(1, b"wait"))
    await turns()
    peer.connection.drain()
    told = list(peer.frames())
    assert (told[0][0], told[0][3][:4]) == (frames.GOAWAY, b"\x7f\xff\xff\xff")
    # What was on its way when the caller was told is still taken.
    assert (await answer(peer, peer.call(3, b"late"), 3))["grpc-status"] == "0"
    peer.send(frame(frames.PING, frames.ACK, 0, told[1][3]))
    assert [payload[:4] for kind, _, _, payload in peer.frames() if kind == frames.GOAWAY] == [
        b"\0\0\0\x03"
    ]
    assert (await answer(peer, peer.call(5, b"more"), 5))["reset"] == frames.ERROR_REFUSED
    assert not peer.wire.closed
    service.go.set()
    await turns()
    assert peer.answers()[1]["grpc-status"] == "0"
    assert peer.wire.closed
