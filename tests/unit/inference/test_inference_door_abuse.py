"""The door and abusive callers: breaches of HTTP/2, floods, bombs, and anything at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.door import WireDoor
from services.inference.adapters.wire.frames import frame, literal_header
from tests.unit.inference.door_peer import (
    COUNT,
    EACH,
    ECHO,
    END,
    HEAD,
    LIMITS,
    SUM,
    EchoService,
    Peer,
    body,
    open_door,
    turns,
)

# Connections that are refused.


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nHost: door\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0", b"PRI * HTTP/2.1"],
)
async def test_what_is_not_http2_is_closed(door: WireDoor, sent: bytes) -> None:
    peer = Peer(door, greet=False)
    peer.send(sent)
    assert peer.wire.closed


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (frame(frames.DATA, 0, 1, b"x"), frames.ERROR_PROTOCOL),
        (frame(frames.HEADERS, END, 2, b"\x82"), frames.ERROR_PROTOCOL),
        (frame(frames.HEADERS, END, 0, b"\x82"), frames.ERROR_PROTOCOL),
        (frame(frames.HEADERS, END, 1, b"\xff\xff\xff\xff\x0f"), frames.ERROR_COMPRESSION),
        (frame(frames.HEADERS, END, 1, b"\x3f\xe1\xff\x03"), frames.ERROR_COMPRESSION),
        (frame(frames.HEADERS, END | frames.PADDED, 1, b"\xff\x82"), frames.ERROR_PROTOCOL),
        (
            frame(frames.HEADERS, 0, 1) + frame(frames.PING, 0, 0, b"12345678"),
            frames.ERROR_PROTOCOL,
        ),
        (frame(frames.CONTINUATION, 4, 1), frames.ERROR_PROTOCOL),
        (frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), frames.ERROR_PROTOCOL),
        (frame(frames.PING, 0, 0, b"1234567"), frames.ERROR_FRAME_SIZE),
        (frame(frames.PING, 0, 1, b"12345678"), frames.ERROR_PROTOCOL),
        (frame(frames.SETTINGS, 0, 0, b"12345"), frames.ERROR_FRAME_SIZE),
        (frame(frames.SETTINGS, frames.ACK, 0, b"123456"), frames.ERROR_FRAME_SIZE),
        (frame(frames.SETTINGS, 0, 1), frames.ERROR_PROTOCOL),
        (frame(frames.SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"), frames.ERROR_FLOW_CONTROL),
        (frame(frames.SETTINGS, 0, 0, b"\0\x05\0\0\0\x01"), frames.ERROR_PROTOCOL),
        (frame(frames.SETTINGS, 0, 0, b"\0\x02\0\0\0\x02"), frames.ERROR_PROTOCOL),
        (frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), frames.ERROR_PROTOCOL),
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), frames.ERROR_FLOW_CONTROL),
        (frame(frames.WINDOW_UPDATE, 0, 9, b"\0\0\0\x01"), frames.ERROR_PROTOCOL),
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\x01"), frames.ERROR_FRAME_SIZE),
        (frame(frames.RST_STREAM, 0, 1, bytes(4)), frames.ERROR_PROTOCOL),
        (frame(frames.GOAWAY, 0, 1, bytes(8)), frames.ERROR_PROTOCOL),
        (b"\xff\xff\xff\0\0\0\0\0\x01", frames.ERROR_FRAME_SIZE),
        (b"\0\xff\xff\x04\0\0\0\0\0", frames.ERROR_FRAME_SIZE),
    ],
)
async def test_breaches_of_http2_end_the_connection(
    peer: Peer, service: EchoService, sent: bytes, error: int
) -> None:
    peer.send(sent)
    assert peer.goaway == error
    assert peer.wire.closed


async def test_a_list_of_headers_that_unpacks_too_large_ends_the_connection(peer: Peer) -> None:
    """An index of one byte stands for a long header: HPACK's bomb."""
    block = peer.encoder.encode([*HEAD, ("x-long", "x" * 3000)], huffman=False)
    peer.send(frame(frames.HEADERS, END, 1, block + b"\xbe" * 4000))
    assert peer.goaway == frames.ERROR_CALM_DOWN


async def test_headers_without_end_end_the_connection(peer: Peer) -> None:
    peer.send(frame(frames.HEADERS, 0, 1))
    for _ in range(20):
        peer.send(frame(frames.CONTINUATION, 0, 1))
    assert peer.goaway == frames.ERROR_CALM_DOWN


@pytest.mark.parametrize(
    "noise",
    [
        frame(frames.PING, 0, 0, b"12345678"),
        frame(frames.SETTINGS, 0, 0),
        frame(frames.PRIORITY, 0, 1, b"\0\0\0\0\x10"),
        frame(frames.DATA, 0, 1),
        frame(frames.DATA, 0, 1, b"\0"),
        frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"),
        frame(0x77, 0, 1),
    ],
)
async def test_floods_end_the_connection(peer: Peer, noise: bytes) -> None:
    peer.send(peer.headers(1, (":path", SUM)) + frame(frames.DATA, 0, 1, b"\0\0\x0f\xff\xff"))
    for _ in range(LIMITS.noise + 2):
        peer.send(noise)
    assert peer.goaway == frames.ERROR_CALM_DOWN


async def test_rapid_resets_end_the_connection(door: WireDoor, service: EchoService) -> None:
    peer = Peer(door)
    last = 0
    for index in range(LIMITS.cancellations + 500):
        last = 2 * index + 1
        peer.send(peer.call(last, b"wait") + frame(frames.RST_STREAM, 0, last, b"\0\0\0\x08"))
        assert door.running <= LIMITS.streams
        if peer.wire.closed:
            break
        await turns(1)
    assert peer.wire.closed
    await turns()
    assert (service.running, door.running, door.held) == (0, 0, 0)


async def test_a_caller_that_reads_no_acknowledgements_is_cut_off(peer: Peer) -> None:
    peer.connection.pause_writing()
    peer.wire.unsent = 3 * LIMITS.write_buffer
    peer.send(frame(frames.PING, 0, 0, b"12345678"))
    assert peer.wire.closed


async def test_connections_that_say_nothing_end(door: WireDoor) -> None:
    silent, idle = Peer(door, greet=False), Peer(door)
    now = silent.now
    silent.connection.check(now + LIMITS.handshake_seconds + 1)
    idle.connection.check(now + LIMITS.handshake_seconds + 1)
    assert silent.wire.closed
    assert not idle.wire.closed
    idle.connection.check(now + LIMITS.idle_seconds + 1)
    assert idle.wire.closed


async def test_a_caller_that_is_gone_is_noticed(peer: Peer) -> None:
    peer.send(peer.call(1, b"wait"))
    await turns()
    now = peer.now
    peer.connection.check(now + 61)
    assert [kind for kind, *_ in peer.frames()] == [frames.PING]
    peer.connection.check(now + 100)
    assert peer.wire.closed


async def test_only_so_many_connections_are_taken(service: EchoService) -> None:
    door = open_door(service, limits=replace(LIMITS, connections=2))
    peers = [Peer(door, greet=False) for _ in range(3)]
    assert [peer.wire.closed for peer in peers] == [False, False, True]
    peers[0].leave()
    await turns()
    assert not Peer(door, greet=False).wire.closed
    await door.stop()


# Anything at all.

PATHS = (ECHO, COUNT, EACH, SUM, "/x")
MESSAGES = (b"5", b"wait", b"size 70000", b"3 9")
STREAMS = (0, 1, 2, 3, 5, 7, 2**31 - 1)
SEEDS, CONNECTIONS = 100, 100


def anything(random: Random, peer: Peer, stream: int) -> bytes:
    """A piece of what a caller may send: calls in frames, any frame, any header, any bytes."""
    choice = random.randrange(10)
    if choice < 3:
        path = (":path", random.choice(PATHS))
        return peer.headers(stream, path, flags=random.choice((0, 4, 4, 5, 12, 36)))
    if choice < 6:
        sent = body(random.choice(MESSAGES), random.choice((0, 0, 0, 1, 2)))
        sent = sent[: random.choice((3, 5, 7, 99))]
        return frame(frames.DATA, random.choice((0, 1, 1, 8)), stream, sent)
    noise = random.randbytes(random.randrange(40))
    if choice == 6:
        block = literal_header(noise[:5], noise[5:])
        return frame(frames.HEADERS, END, random.choice(STREAMS), block)
    if choice == 7:
        return noise
    length = random.choice((0, 4, 5, 6, 8, len(noise)))
    kind, flags = random.randrange(12), random.choice((0, 1, 4, random.randrange(256)))
    return frame(kind, flags, random.choice((stream, *STREAMS)), noise[:length])


async def abuse(door: WireDoor, random: Random) -> None:
    """One connection of up to 12 pieces, split anywhere; then it breaks."""
    peer = Peer(door, greet=random.random() < 0.95)
    stream = 1
    for _ in range(random.randrange(1, 13)):
        data = anything(random, peer, stream)
        split = random.randrange(len(data) + 1)
        peer.send(data[:split])
        if random.random() < 0.3:
            await turns(1)
        peer.send(data[split:])
        stream += random.choice((0, 0, 2))
    list(peer.frames())
    peer.leave()
    await turns(3)


async def abuse_often(seed: int) -> None:
    service = EchoService()
    door = open_door(service, limits=LIMITS, drain_seconds=0.1)
    random = Random(seed)  # noqa: S311 - no secret
    for _ in range(CONNECTIONS):
        await abuse(door, random)
        assert (door.held, door.running, service.running) == (0, 0, 0)
    await door.stop()


@settings(max_examples=SEEDS, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_whatever_callers_send_the_door_stands(seed: int) -> None:
    """10,000 connections: no error escapes, and nothing is left behind."""
    asyncio.run(abuse_often(seed))
