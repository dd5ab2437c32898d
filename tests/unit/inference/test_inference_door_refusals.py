"""Calls that the door refuses: what cannot begin, is malformed, or is more than it holds."""

from __future__ import annotations

import gzip

import grpc
import pytest

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.door import WireDoor
from services.inference.adapters.wire.frames import frame
from tests.helpers import eventually
from tests.unit.inference.door_peer import (
    END,
    LIMITS,
    EchoService,
    Peer,
    answer,
    body,
    turns,
)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((":path", "/test.Echo/Nothing"), "UNIMPLEMENTED"),
        (("grpc-encoding", "snappy"), "UNIMPLEMENTED"),
        (("grpc-timeout", "5"), "INTERNAL"),
        (("grpc-timeout", "123456789S"), "INTERNAL"),
        (("x-bin", "***"), "INTERNAL"),
    ],
)
async def test_calls_that_cannot_begin_get_a_status(
    peer: Peer, change: tuple[str, str], status: str
) -> None:
    got = await answer(peer, peer.call(1, b"hello", change))
    assert got["grpc-status"] == str(grpc.StatusCode[status].value[0])
    assert "gzip" in got["grpc-accept-encoding"]


@pytest.mark.parametrize(
    ("change", "status"), [((":method", "GET"), "405"), (("content-type", "text/html"), "415")]
)
async def test_what_is_not_grpc_gets_a_status_of_http(
    peer: Peer, change: tuple[str, str], status: str
) -> None:
    got = await answer(peer, peer.headers(1, change, flags=END))
    assert got[":status"] == status


@pytest.mark.parametrize(
    "change",
    [
        (":path", "no-slash"),
        (":scheme", "ftp"),
        (":unknown", "x"),
        ("connection", "close"),
        ("te", "gzip"),
        ("x-key", "a\nb"),
        ("X-Upper", "x"),
        ("content-length", "-1"),
        ("content-length", "9999"),
    ],
)
async def test_malformed_requests_are_reset_and_the_connection_goes_on(
    peer: Peer, service: EchoService, change: tuple[str, str]
) -> None:
    got = await answer(peer, peer.call(1, b"hello", change))
    assert got["reset"] == frames.ERROR_PROTOCOL
    assert service.answered == 0
    assert (await answer(peer, peer.call(3, b"hello"), 3))["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", "INTERNAL"),
        (b"\0\0\0", "INTERNAL"),
        (body(b"hello")[:-1], "INTERNAL"),
        (body(b"hello", 7), "INTERNAL"),
        (body(b"hello", 1), "INTERNAL"),
        (body(b"hello") + body(b"more"), "UNIMPLEMENTED"),
        (body(b"hello") + b"\0", "UNIMPLEMENTED"),
        (b"\0\xff\xff\xff\xffhello", "RESOURCE_EXHAUSTED"),
    ],
)
async def test_bodies_that_are_no_message_are_refused(
    peer: Peer, service: EchoService, sent: bytes, status: str
) -> None:
    got = await answer(peer, peer.headers(1) + frame(frames.DATA, 1, 1, sent))
    assert got["grpc-status"] == str(grpc.StatusCode[status].value[0])
    assert service.answered == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (gzip.compress(bytes(64 << 20), 9, mtime=0), "RESOURCE_EXHAUSTED"),
        (gzip.compress(b"hello", mtime=0)[:-4], "INTERNAL"),
        (b"no gzip", "INTERNAL"),
    ],
    ids=["a bomb", "a wreck", "no gzip"],
)
async def test_compressed_bombs_and_wrecks_are_refused(
    peer: Peer, data: bytes, status: str
) -> None:
    start = peer.headers(1, ("grpc-encoding", "gzip"))
    peer.send(start + frame(frames.DATA, 1, 1, body(data, 1)))
    await eventually(lambda: bool(peer.wire.sent))
    assert peer.answers()[1]["grpc-status"] == str(grpc.StatusCode[status].value[0])


async def test_calls_beyond_the_bound_are_refused_and_may_be_sent_again(
    peer: Peer, service: EchoService
) -> None:
    for index in range(LIMITS.streams + 3):
        peer.send(peer.call(2 * index + 1, b"wait"))
    await turns()
    assert service.running == LIMITS.streams
    refused = {s for s, got in peer.answers().items() if got.get("reset") == frames.ERROR_REFUSED}
    assert refused == {33, 35, 37}
    service.go.set()
    await turns()
    assert (await answer(peer, peer.call(39, b"hello"), 39))["grpc-status"] == "0"


async def test_the_door_holds_only_so_much(door: WireDoor, service: EchoService) -> None:
    peers = [Peer(door) for _ in range(3)]
    refused = 0
    for peer in peers:
        for stream in (1, 3, 5):
            peer.send(
                peer.headers(stream) + frame(frames.DATA, 0, stream, body(b"x" * 900_000)[:900_000])
            )
        refused += sum(got.get("grpc-status") == "8" for got in peer.answers().values())
    assert refused > 0
    assert door.held <= LIMITS.held_bytes + (1 << 20)
    for peer in peers:
        peer.leave()
    await turns()
    assert door.held == 0


async def test_a_request_that_is_left_unfinished_ends(peer: Peer, door: WireDoor) -> None:
    peer.send(peer.headers(1) + frame(frames.DATA, 0, 1, b"\0\0\0\0\x50abc"))
    peer.connection.check(peer.now + LIMITS.stall_seconds + 1)
    assert peer.answers()[1]["grpc-status"] == str(grpc.StatusCode.CANCELLED.value[0])
    assert door.held == 0
