"""A caller of the door that speaks in frames, without a socket between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
from hpack import Decoder, Encoder

from services.inference.adapters.wire import frames
from services.inference.adapters.wire.caller import CallerConnection
from services.inference.adapters.wire.door import WireDoor
from services.inference.adapters.wire.frames import frame
from services.inference.adapters.wire.limits import WireLimits
from services.inference.adapters.wire.messages import message_prefix
from tessera_kit.config import RpcConfig
from tessera_kit.rpc.server import RawBinding
from tessera_kit.telemetry.metrics import Metrics

LIMITS = WireLimits(message_bytes=1 << 20, held_bytes=4 << 20, streams=16, noise=200)
SERVICE = "test.Echo"
ECHO = f"/{SERVICE}/Echo"
INFER = "/inference.GRPCInferenceService/ModelInfer"
COUNT = f"/{SERVICE}/Count"
EACH = f"/{SERVICE}/Each"
SUM = f"/{SERVICE}/Sum"
HEAD = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", ECHO),
    (":authority", "door"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
END = frames.END_STREAM | frames.END_HEADERS


class EchoService(grpc.GenericRpcHandler):
    """Answers by what the request says, in all four kinds of methods."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0
        self.answered = 0
        self.go = asyncio.Event()
        self.seen: list[Any] = []
        self.last = b""
        self.left: list[float | None] = []
        self._methods: dict[str, Any] = {
            ECHO: grpc.unary_unary_rpc_method_handler(self.echo),
            INFER: grpc.unary_unary_rpc_method_handler(self.echo),
            COUNT: grpc.unary_stream_rpc_method_handler(self.count),
            EACH: grpc.stream_stream_rpc_method_handler(self.each),
            SUM: grpc.stream_unary_rpc_method_handler(self.sum),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(details.method)

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.last = request
        word, _, rest = request.partition(b" ")
        self.seen = list(context.invocation_metadata())
        self.left.append(context.time_remaining())
        if word == b"fail":
            code, _, details = rest.decode().partition(" ")
            context.set_trailing_metadata((("why", "asked for"), ("why-bin", b"\0\xff")))
            await context.abort(grpc.StatusCode[code], details)
        if word == b"raise":
            raise ValueError("a secret")
        if word == b"wait":
            await self._wait()
        self.answered += 1
        return b"x" * int(rest) if word == b"size" else request

    async def _wait(self) -> None:
        self.running += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def count(self, request: bytes, context: Any) -> Any:
        number, _, size = request.partition(b" ")
        for index in range(int(number)):
            yield b"%d " % index + b"x" * int(size or 0)

    async def each(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            if request == b"wait":
                await self._wait()
            yield request

    async def sum(self, requests: Any, context: Any) -> bytes:
        return b"%d" % sum([int(request) async for request in requests])


def open_door(service: EchoService, listen: str = "127.0.0.1:0", **config: Any) -> WireDoor:
    """A bound door; `limits` is its own."""
    limits: WireLimits | None = config.pop("limits", None)
    return WireDoor(
        RpcConfig(listen, **config),
        [RawBinding(service, SERVICE)],
        metrics=Metrics(),
        limits=limits,
    )


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.writes = 0
        self.closed = False
        self.unsent = 0
        self.connection: CallerConnection | None = None
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, pieces: Any) -> None:
        self.writes += 1
        for piece in pieces:
            self.sent += piece

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    @property
    def reads_straight(self) -> bool:
        return isinstance(self.protocol, asyncio.BufferedProtocol)

    def receive(self, data: bytes) -> None:
        """What the socket has, read as an event loop does."""
        rest = memoryview(data)
        while rest and not self.closed:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                room = memoryview(self.protocol.get_buffer(-1))
                size = min(len(room), len(rest))
                room[:size] = rest[:size]
                self.protocol.buffer_updated(size)
                rest = rest[size:]
            elif isinstance(self.protocol, asyncio.Protocol):
                self.protocol.data_received(bytes(rest))
                return

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def close(self) -> None:
        if not self.closed and self.connection is not None:
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)
        self.closed = True

    abort = close


class Peer:
    """A connection to a door, from its other side."""

    def __init__(self, door: WireDoor, *, greet: bool = True, **settings: int) -> None:
        self.wire = Wire()
        self.connection = self.wire.connection = self.wire.protocol = CallerConnection(door)
        self.connection.connection_made(self.wire)
        self.encoder = Encoder()
        self.decoder = Decoder()
        if greet:
            names = {"window": frames.SETTING_WINDOW}
            given = {names[name]: value for name, value in settings.items()}
            self.send(frames.PREFACE + frame(frames.SETTINGS, 0, 0, frames.settings_payload(given)))
            self.connection.flush()
            self.wire.sent.clear()
            self.wire.writes = 0

    def send(self, data: bytes) -> None:
        self.wire.receive(bytes(data))

    def headers(self, stream: int, *changes: tuple[str, str], flags: int = 4) -> bytes:
        """A HEADERS frame of a call; a change replaces a header, or adds it."""
        given = dict(HEAD) | dict(changes)
        return frame(frames.HEADERS, flags, stream, self.encoder.encode(list(given.items())))

    def call(self, stream: int, message: bytes, *changes: tuple[str, str]) -> bytes:
        """A whole call."""
        body = message_prefix(len(message)) + message
        return self.headers(stream, *changes) + frame(frames.DATA, 1, stream, body)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """What the door has sent since the last look: kind, flags, stream, payload."""
        self.connection.flush()
        data = bytes(self.wire.sent)
        self.wire.sent.clear()
        for kind, flags, stream, start, end in frames.read_frames(data, 1 << 24):
            yield kind, flags, stream, data[start:end]

    def answers(self) -> dict[int, dict[str, Any]]:
        """By stream: its headers and trailers, with the bytes of its body under ``""``."""
        found: dict[int, dict[str, Any]] = {}
        for kind, _, stream, payload in self.frames():
            answer = found.setdefault(stream, {"": b""})
            if kind == frames.HEADERS:
                answer.update(dict(self.decoder.decode(payload)))
            elif kind == frames.DATA:
                answer[""] += payload
            elif kind == frames.RST_STREAM:
                answer["reset"] = int.from_bytes(payload, "big")
            elif kind == frames.GOAWAY:
                answer["goaway"] = int.from_bytes(payload[4:8], "big")
        return found

    def leave(self) -> None:
        """Break the connection."""
        self.wire.close()

    @property
    def now(self) -> float:
        """The door's clock."""
        return asyncio.get_running_loop().time()

    @property
    def goaway(self) -> int | None:
        """The error that the door told when it closed; None when it did not."""
        return self.answers().get(0, {}).get("goaway")


async def turns(count: int = 8) -> None:
    """Let tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def body(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


async def answer(peer: Peer, data: bytes, stream: int = 1) -> dict[str, Any]:
    peer.send(data)
    await turns()
    return peer.answers()[stream]
