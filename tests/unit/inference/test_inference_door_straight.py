"""Large bodies are read from the socket to where their message is put together."""

from __future__ import annotations

import asyncio
import gc
from random import Random
from typing import Any

import pytest

from services.inference.adapters.wire import frames, requests
from services.inference.adapters.wire.door import WireDoor
from services.inference.adapters.wire.frames import frame
from services.inference.adapters.wire.messages import InvalidBody, MessageReader
from services.inference.adapters.wire.whole import WholeMessage
from tests.helpers import eventually
from tests.unit.inference.door_peer import (
    LIMITS,
    SUM,
    EchoService,
    Peer,
    answer,
    body,
    open_door,
    turns,
)

MESSAGE = Random(5).randbytes(700_000)  # noqa: S311 - no secret


def upload(peer: Peer, stream: int, *cuts: int) -> bytes:
    """A call with MESSAGE in frames that end at these of the body's bytes, and at its end."""
    whole, start = body(MESSAGE), 0
    sent = peer.headers(stream, ("content-length", str(len(whole))))
    for end in (*cuts, len(whole)):
        sent += frame(frames.DATA, int(end == len(whole)), stream, whole[start:end])
        start = end
    return sent


@pytest.mark.parametrize("cuts", [(), (300_000,), (3,), (200_000, 200_100, 400_000)])
@pytest.mark.parametrize("reads", [1000, 65_536, 256_000])
async def test_a_large_body_comes_whole(
    peer: Peer, door: WireDoor, service: EchoService, cuts: tuple[int, ...], reads: int
) -> None:
    data, straight = upload(peer, 1, *cuts), 0
    for start in range(0, len(data), reads):
        peer.send(data[start : start + reads])
        straight += peer.wire.reads_straight
        assert door.held <= len(MESSAGE) + 1000
    assert straight
    await turns()
    assert service.last == MESSAGE
    assert not peer.wire.reads_straight
    peer.leave()
    await turns()
    assert door.held == 0


async def test_what_follows_the_body_is_another_call(peer: Peer, service: EchoService) -> None:
    data = upload(peer, 1) + peer.call(3, b"hello")
    peer.send(data[:1000])
    peer.send(data[1000:])
    await turns()
    assert (service.last, service.answered) == (b"hello", 2)


async def test_small_bodies_and_streams_are_not(peer: Peer) -> None:
    data = peer.call(1, b"x" * 60_000)
    peer.send(data[:1000])
    assert not peer.wire.reads_straight
    peer.send(data[1000:])
    data = peer.headers(3, (":path", SUM)) + frame(frames.DATA, 1, 3, body(b"1" * 70_000))
    peer.send(data[:1000])
    assert not peer.wire.reads_straight


async def test_a_body_that_is_longer_than_its_message_is_refused(peer: Peer) -> None:
    data = peer.headers(1) + frame(frames.DATA, 1, 1, body(MESSAGE[:200_000]) + b"more")
    peer.send(data[:1000])
    peer.send(data[1000:])
    assert peer.answers()[1]["grpc-status"] == "12"
    data = peer.headers(3) + frame(frames.DATA, 0, 3, body(MESSAGE)[:600_000])
    peer.send(data[:1000])
    peer.send(data[1000:])
    peer.send(frame(frames.DATA, 1, 3, body(MESSAGE)[600_000:] + b"more"))
    assert peer.answers()[3]["grpc-status"] == "12"


async def test_a_body_that_ends_within_its_message_is_refused(peer: Peer, door: WireDoor) -> None:
    data = peer.headers(1) + frame(frames.DATA, 1, 1, body(MESSAGE)[:600_000])
    peer.send(data[:1000])
    assert peer.wire.reads_straight
    peer.send(data[1000:])
    assert peer.answers()[1]["grpc-status"] == "13"
    assert door.held == 0


async def test_a_call_that_ends_meanwhile_leaves_the_connection_usable(
    peer: Peer, door: WireDoor
) -> None:
    whole = body(MESSAGE)
    late = frame(frames.DATA, 1, 1, whole)
    peer.send(peer.headers(1, ("grpc-timeout", "20m")) + late[:1000])
    assert peer.wire.reads_straight
    assert door.held > len(MESSAGE)
    await eventually(lambda: peer.connection.running == 0)
    assert door.held == 0
    assert not any(type(one) is WholeMessage for one in gc.get_objects())
    peer.send(late[1000:2000])
    peer.send(late[2000:])
    assert not peer.wire.reads_straight
    assert peer.answers()[1]["grpc-status"] == "4"
    assert (await answer(peer, peer.call(3, b"hello"), 3))[""] == body(b"hello")


async def test_a_connection_that_is_lost_meanwhile_holds_nothing(
    peer: Peer, door: WireDoor
) -> None:
    peer.send(upload(peer, 1)[:1000])
    assert peer.wire.reads_straight
    peer.leave()
    await turns()
    assert (door.held, door.running) == (0, 0)


async def test_memory_is_not_taken_ahead_beyond_what_the_door_holds(
    peer: Peer, door: WireDoor, service: EchoService
) -> None:
    door.held = LIMITS.held_bytes - 400_000
    data = upload(peer, 1)
    peer.send(data[:1000])
    assert not peer.wire.reads_straight
    peer.send(data[1000:300_000])
    assert not peer.answers()
    peer.send(data[300_000:])
    assert peer.answers()[1]["grpc-status"] == "8"
    assert door.held == LIMITS.held_bytes - 400_000
    assert not service.answered


def test_a_message_is_given_away_as_it_was_read() -> None:
    reader = MessageReader(1 << 20)
    whole = body(MESSAGE, 1)
    reader.feed(whole[:3])
    reader.feed(whole[3:9])
    assert (reader.missing, reader.is_whole) == (len(whole) - 9, False)
    reader.make_whole()
    room = reader.room(100_000)
    room[:] = whole[9:100_009]
    reader.filled(100_000)
    reader.feed(whole[100_009:])
    assert (reader.missing, reader.ready) == (0, True)
    message, compressed = reader.take()
    assert (type(message), message, compressed) == (bytes, MESSAGE, True)
    assert reader.empty


def test_what_follows_a_message_is_the_next_one() -> None:
    reader = MessageReader(1 << 20)
    reader.feed(body(MESSAGE)[:10])
    reader.make_whole()
    reader.feed(body(MESSAGE)[10:] + body(b"next"))
    assert reader.take() == (MESSAGE, False)
    assert reader.take() == (b"next", False)
    reader.feed(body(MESSAGE)[:10])
    reader.make_whole()
    reader.feed(body(MESSAGE)[10:] + b"\x07\0\0\0\0")
    with pytest.raises(InvalidBody):
        reader.take()


CONNECTIONS = 1000


def cut(random: Random, data: bytes, most: int) -> list[bytes]:
    """Data in up to so many parts, some of them empty."""
    ends = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(most)))
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def uploads(random: Random, peer: Peer) -> bytes:
    """Up to three calls in frames, with others between them; some bodies are too long or short."""
    sent = b""
    for stream in range(1, random.choice((3, 5, 7)), 2):
        whole = body(random.randbytes(random.randrange(3000)), random.choice((0, 0, 0, 0, 1)))
        whole = random.choice((whole, whole, whole, whole + b"more", whole[:-2]))
        parts = cut(random, whole, 5)
        timeout = [("grpc-timeout", "1n")] * (random.random() < 0.1)
        sent += peer.headers(stream, *timeout)
        for number, part in enumerate(parts, 1):
            sent += frame(frames.DATA, int(number == len(parts)), stream, part)
            sent += random.choice(
                (
                    b"",
                    frame(frames.PING, 0, 0, b"12345678"),
                    frame(99, 0, stream, b"unknown" * 9),
                    frame(frames.DATA, 0, stream, b"") if number < len(parts) else b"",
                    frame(frames.RST_STREAM, 0, stream, b"\0\0\0\x08"),
                )[: 4 + (random.random() < 0.1)]
            )
    return sent


async def outcome(seed: int) -> tuple[dict[int, dict[str, Any]], int]:
    """What the callers of a connection got, and how often it read straight."""
    random = Random(seed)  # noqa: S311 - no secret
    door = open_door(EchoService(), limits=LIMITS, drain_seconds=0.1)
    peer = Peer(door)
    straight = 0
    for part in cut(random, uploads(random, peer), 12):
        peer.send(part)
        straight += peer.wire.reads_straight
        if random.random() < 0.3:
            await turns()
    await turns()
    answers = peer.answers()
    peer.leave()
    await turns()
    assert (door.held, door.running) == (0, 0)
    await door.stop()
    return answers, straight


def test_callers_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes in the same reads get the same answers, however they are read."""
    straight = 0
    for seed in range(CONNECTIONS):
        monkeypatch.setattr(requests, "_LEAST_STRAIGHT", 1 << 30)
        copied, never = asyncio.run(outcome(seed))
        monkeypatch.setattr(requests, "_LEAST_STRAIGHT", 1)
        found, often = asyncio.run(outcome(seed))
        assert (found, never) == (copied, 0)
        straight += often
    assert straight > CONNECTIONS
