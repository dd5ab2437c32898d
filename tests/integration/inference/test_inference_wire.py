"""The lean client against a real gRPC server: sizes, many at once, deadlines, loss."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.inference.adapters.triton.wire import TritonWire
from services.inference.adapters.wire import frames
from services.inference.adapters.wire.connection import CallFailed, WireConnection
from services.inference.adapters.wire.frames import HeaderBlocks, ProtocolError
from services.inference.errors import (
    InferenceTimeout,
    InvalidInference,
    ModelFailed,
    RuntimeUnavailable,
    TooManyInferences,
)
from tests.helpers import eventually

PATH = "/inference.GRPCInferenceService/ModelInfer"
LARGEST = 32 << 20


class Peer(grpc.GenericRpcHandler):
    """Answers by what the request says."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.running = 0
        self.go = asyncio.Event()
        self.deadlines: list[float | None] = []
        self._method: Any = grpc.unary_unary_rpc_method_handler(self.answer)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._method if details.method == PATH else None

    async def answer(self, request: bytes, context: Any) -> bytes:
        word, _, rest = request.partition(b" ")
        self.deadlines.append(context.time_remaining())
        if word == b"fail":
            code, _, details = rest.decode().partition(" ")
            await context.abort(grpc.StatusCode[code], details)
        if word == b"wait":
            self.running += 1
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
        if word == b"size":
            return b"x" * int(rest)
        return request


@pytest.fixture
def peer() -> Peer:
    return Peer()


async def serve(peer: Peer, port: int = 0, **options: int) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", LARGEST),
            ("grpc.max_send_message_length", LARGEST),
            ("grpc.so_reuseport", 0),
            *((f"grpc.{name}", value) for name, value in options.items()),
        ]
    )
    server.add_generic_rpc_handlers((peer,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


@pytest.fixture
async def runtime(peer: Peer) -> AsyncIterator[TritonWire]:
    server, port = await serve(peer)
    runtime = TritonWire(f"127.0.0.1:{port}", max_message_bytes=LARGEST)
    yield runtime
    await runtime.close()
    await server.stop(None)


@pytest.mark.parametrize(
    "size", [1, 100, 16_379, 16_384, 65_530, 65_535, 65_536, 1_000_000, 20_000_000]
)
async def test_messages_of_every_size_come_back(runtime: TritonWire, size: int) -> None:
    message = os.urandom(size)
    assert await runtime.infer(message, 60) == message


async def test_an_empty_message_comes_back(runtime: TritonWire) -> None:
    assert await runtime.infer(b"", None) == b""


async def test_many_at_once_get_their_own_answers(runtime: TritonWire) -> None:
    messages = [b"%d " % i + os.urandom(i * 997 % 200_000) for i in range(300)]
    assert await asyncio.gather(*(runtime.infer(one, 60) for one in messages)) == messages


async def test_a_slow_call_does_not_hold_up_the_others(runtime: TritonWire, peer: Peer) -> None:
    slow = asyncio.create_task(runtime.infer(b"wait", 60))
    await eventually(lambda: peer.running == 1)
    assert await runtime.infer(b"quick", 10) == b"quick"
    assert not slow.done()
    peer.go.set()
    assert await slow == b"wait"


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        ("INVALID_ARGUMENT", "unexpected shape for input 'x'", InvalidInference),
        ("NOT_FOUND", "", RuntimeUnavailable),
        ("UNAVAILABLE", "Request for unknown model: 'tessera-1' is not found", RuntimeUnavailable),
        ("INTERNAL", "Stub process 'x' is not healthy", RuntimeUnavailable),
        ("INTERNAL", "in x, the model failed: IndexError: too far", ModelFailed),
        ("RESOURCE_EXHAUSTED", "queue", TooManyInferences),
        ("DEADLINE_EXCEEDED", "late", InferenceTimeout),
    ],
)
async def test_statuses_become_errors_without_the_runtimes_names(
    runtime: TritonWire, code: str, details: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await runtime.infer(f"fail {code} {details}".encode(), 10)
    assert "tessera-1" not in str(caught.value)
    assert "Stub" not in str(caught.value)


async def test_details_come_through_percent_encoding(runtime: TritonWire) -> None:
    with pytest.raises(ModelFailed, match="ValueError: 50 % über é"):
        await runtime.infer("fail INTERNAL the model failed: ValueError: 50 % über é".encode(), 10)


async def test_a_deadline_travels_and_ends_the_call(runtime: TritonWire, peer: Peer) -> None:
    await runtime.infer(b"first", None)
    with pytest.raises(InferenceTimeout):
        await runtime.infer(b"wait", 0.2)
    assert peer.deadlines[0] is None
    assert peer.deadlines[1] is not None
    assert 0 < peer.deadlines[1] <= 0.2
    await eventually(lambda: peer.cancelled == 1)
    assert await runtime.infer(b"after", 10) == b"after"


async def test_cancelling_ends_the_servers_work(runtime: TritonWire, peer: Peer) -> None:
    task = asyncio.create_task(runtime.infer(b"wait", 60))
    await eventually(lambda: peer.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: peer.cancelled == 1)
    assert await runtime.infer(b"after", 10) == b"after"


async def test_a_cancelled_upload_leaves_the_connection_usable(
    runtime: TritonWire, peer: Peer
) -> None:
    await runtime.infer(b"first", 10)
    for _ in range(5):
        task = asyncio.create_task(runtime.infer(b"wait " + bytes(8_000_000), 60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert await runtime.infer(bytes(3_000_000), 60) == bytes(3_000_000)


async def test_a_response_above_the_bound_is_refused(peer: Peer) -> None:
    server, port = await serve(peer)
    runtime = TritonWire(f"127.0.0.1:{port}", max_message_bytes=100_000)
    with pytest.raises(TooManyInferences):
        await runtime.infer(b"size 5000000", 60)
    assert await runtime.infer(b"size 10", 60) == b"x" * 10
    await runtime.close()
    await server.stop(None)


async def test_the_servers_bound_on_streams_is_kept(peer: Peer) -> None:
    server, port = await serve(peer, max_concurrent_streams=2)
    runtime = TritonWire(f"127.0.0.1:{port}", max_message_bytes=LARGEST)
    await runtime.infer(b"first", 10)
    tasks = [asyncio.create_task(runtime.infer(b"wait", 60)) for _ in range(6)]
    await eventually(lambda: peer.running == 2)
    tasks[5].cancel()
    peer.go.set()
    assert await asyncio.gather(*tasks[:5]) == [b"wait"] * 5
    await runtime.close()
    await server.stop(None)


async def test_a_lost_server_is_unavailable_and_found_again(peer: Peer) -> None:
    server, port = await serve(peer)
    runtime = TritonWire(f"127.0.0.1:{port}", max_message_bytes=LARGEST)
    waiting = [asyncio.create_task(runtime.infer(b"wait", 60)) for _ in range(3)]
    await eventually(lambda: peer.running == 3)
    await server.stop(0)
    for task in waiting:
        with pytest.raises((RuntimeUnavailable, InferenceTimeout)):
            await task
    with pytest.raises(RuntimeUnavailable):
        await runtime.infer(b"down", 5)
    again, _ = await serve(peer, port)

    async def answered() -> bool:
        try:
            return await runtime.infer(b"up", 5) == b"up"
        except RuntimeUnavailable:
            return False

    await eventually(answered)
    await runtime.close()
    await again.stop(None)


async def test_a_draining_server_ends_what_runs(peer: Peer) -> None:
    """GOAWAY: running calls end, new ones go to a new connection or fail as unavailable."""
    server, port = await serve(peer)
    runtime = TritonWire(f"127.0.0.1:{port}", max_message_bytes=LARGEST)
    running = asyncio.create_task(runtime.infer(b"wait", 60))
    await eventually(lambda: peer.running == 1)
    stopping = asyncio.create_task(server.stop(30))
    with pytest.raises(RuntimeUnavailable):
        while True:
            await runtime.infer(b"new", 5)
    peer.go.set()
    assert await running == b"wait"
    await runtime.close()
    await stopping


async def test_nobody_at_the_port_is_unavailable_at_once() -> None:
    runtime = TritonWire("127.0.0.1:9", max_message_bytes=LARGEST)
    found = await asyncio.gather(
        *(runtime.infer(b"", 30) for _ in range(50)), return_exceptions=True
    )
    assert all(isinstance(one, RuntimeUnavailable) for one in found)
    await runtime.close()


class Raw(asyncio.Protocol):
    """A peer that says whatever a test wants."""

    def __init__(self, says: bytes) -> None:
        self._says = says

    def connection_made(self, transport: Any) -> None:
        transport.write(self._says)


FRAME = frames.frame


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        FRAME(frames.PUSH_PROMISE, 0, 1, b"\0\0\0\2"),
        FRAME(frames.CONTINUATION, 0, 1, b""),
        FRAME(frames.SETTINGS, 0, 0, b"\0\0\0"),
        FRAME(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        FRAME(frames.HEADERS, 0, 1, b"\x88") + FRAME(frames.PING, 0, 0, bytes(8)),
        FRAME(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\x09"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_left(says: bytes) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Raw(says), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, connection = await loop.create_connection(
        lambda: WireConnection("test", PATH, LARGEST), "127.0.0.1", port
    )
    with pytest.raises(CallFailed) as caught:
        await connection.call(b"hello", 10)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert not connection.usable
    server.close()


class Strict(asyncio.Protocol):
    """Changes its windows while a body comes, and holds the caller to what it acknowledged."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self._acknowledged = deque([(frames.DEFAULT_WINDOW, frames.DEFAULT_FRAME_SIZE)])
        self._offers = deque([(200_000, 100_000), (50_000, 30_000), (1 << 20, 1 << 19)])
        self._window, self._frame_size = frames.DEFAULT_WINDOW, frames.DEFAULT_FRAME_SIZE
        self._taken = 0
        self._buffer = b""
        self._met = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        room = (1 << 30).to_bytes(4, "big")
        transport.write(FRAME(frames.SETTINGS, 0, 0) + FRAME(frames.WINDOW_UPDATE, 0, 0, room))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        if not self._met:
            data, self._met = data.removeprefix(frames.PREFACE), True
        used = 0
        for kind, flags, _, start, end in frames.read_frames(data, frames.LARGEST_FRAME_SIZE):
            used = end
            if kind == frames.SETTINGS and flags & frames.ACK:
                self._window, self._frame_size = self._acknowledged.popleft()
            elif kind == frames.DATA:
                self._take(end - start, bool(flags & frames.END_STREAM))
        self._buffer = data[used:]

    def _take(self, size: int, last: bool) -> None:
        self._taken += size
        if size > self._frame_size:
            self.broken.append(f"a frame of {size} bytes where {self._frame_size} are known")
        if self._taken > self._window:
            self.broken.append(f"{self._taken} bytes where {self._window} are known")
        if last:
            ok = frames.encode_headers([(":status", "200"), ("grpc-status", "0")])
            self._transport.write(
                FRAME(frames.HEADERS, frames.END_HEADERS, 1, b"\x88")
                + FRAME(frames.DATA, 0, 1, bytes(5))
                + FRAME(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, ok)
            )
        elif self._taken >= self._window and self._offers:
            self._offer()

    def _offer(self) -> None:
        """Say the next windows; a smaller one is followed by one that lets the body go on."""
        while self._offers:
            offer = self._offers.popleft()
            self._acknowledged.append(offer)
            settings = {frames.SETTING_WINDOW: offer[0], frames.SETTING_FRAME_SIZE: offer[1]}
            self._transport.write(FRAME(frames.SETTINGS, 0, 0, frames.settings_payload(settings)))
            if offer[0] > self._taken:
                return


async def test_settings_are_used_only_once_they_are_acknowledged() -> None:
    """A peer resets what overruns the windows that it knows us to have taken."""
    loop = asyncio.get_running_loop()
    strict = Strict()
    server = await loop.create_server(lambda: strict, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, connection = await loop.create_connection(
        lambda: WireConnection("test", PATH, LARGEST), "127.0.0.1", port
    )
    assert await connection.call(bytes(900_000), 60) == b""
    assert strict.broken == []
    connection.close()
    server.close()


async def test_continued_and_padded_frames_are_put_together() -> None:
    trailers = frames.encode_headers([("grpc-status", "0"), ("x-note", "n" * 300)])
    body = b"\0\0\0\0\2ok"
    says = b"".join(
        (
            FRAME(frames.SETTINGS, 0, 0, frames.settings_payload({4: 1 << 20})),
            FRAME(frames.HEADERS, frames.END_HEADERS, 1, b"\x88"),
            FRAME(frames.DATA, frames.PADDED, 1, b"\x03" + body[:4] + bytes(3)),
            FRAME(frames.DATA, 0, 1, body[4:]),
            FRAME(frames.HEADERS, frames.END_STREAM, 1, trailers[:50]),
            FRAME(frames.CONTINUATION, 0, 1, trailers[50:100]),
            FRAME(frames.CONTINUATION, frames.END_HEADERS, 1, trailers[100:]),
        )
    )
    loop = asyncio.get_running_loop()
    connection = WireConnection("test", PATH, LARGEST)
    server = await loop.create_server(lambda: Raw(b""), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await loop.create_connection(lambda: connection, "127.0.0.1", port)
    call = asyncio.create_task(connection.call(b"hello", 10))
    await asyncio.sleep(0)
    for place in range(len(says)):
        connection.data_received(says[place : place + 1])
    assert await call == b"ok"
    connection.close()
    server.close()


def test_header_blocks_that_offer_to_an_empty_table_are_known_again() -> None:
    # As Triton's, which offers its headers anew with each answer: 0x20 empties the table.
    blocks = HeaderBlocks(frames.text_headers)
    offer = b"@\x0bgrpc-status\x010"
    assert blocks.decode(b"\x20" + offer) == {"grpc-status": "0"}
    first = blocks.decode(offer)
    assert first == {"grpc-status": "0"}
    assert blocks.decode(offer) is first


def test_header_blocks_with_a_table_are_not_taken_for_others() -> None:
    from hpack import Encoder

    encoder, blocks = Encoder(), HeaderBlocks(frames.text_headers)
    for number in range(3):
        block = encoder.encode([("grpc-status", str(number)), ("x", "y")])
        assert blocks.decode(block) == {"grpc-status": str(number), "x": "y"}
        again = encoder.encode([("grpc-status", str(number)), ("x", "y")])
        assert blocks.decode(again) == {"grpc-status": str(number), "x": "y"}
    with pytest.raises(ProtocolError):
        blocks.decode(b"\xff\xff\xff\xff")
