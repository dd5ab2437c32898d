"""A response of the HTTP door leaves in one write, whatever its server makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from tessera_kit.http.connection import OneWriteProtocol

REQUEST = b"POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi"


class Transport(asyncio.Transport):
    """Keeps what is written, call by call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.writes: list[bytes] = []
        self.closed = asyncio.Event()

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def pause_reading(self) -> None:
        """Nothing reads."""

    def resume_reading(self) -> None:
        """Nothing reads."""


async def answered(body: bytes, request: bytes = REQUEST, headers: Any = None) -> Transport:
    """A transport after one request was answered with this body and the connection closed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await Response(body, headers=headers)(scope, receive, send)

    config = uvicorn.Config(app, http=OneWriteProtocol, lifespan="off", log_config=None, ws="none")
    config.load()
    protocol = OneWriteProtocol(config, ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(request)
    await asyncio.wait_for(transport.closed.wait(), 10)
    protocol.connection_lost(None)
    return transport


@pytest.mark.parametrize("size", [0, 5, 1 << 10])
async def test_head_and_body_leave_in_one_write(size: int) -> None:
    close = REQUEST.replace(b"host: h", b"host: h\r\nconnection: close")
    transport = await answered(b"b" * size, close)
    (written,) = transport.writes
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"b" * size


async def test_a_large_body_is_whole_and_before_the_end_of_the_connection() -> None:
    close = REQUEST.replace(b"host: h", b"host: h\r\nconnection: close")
    transport = await answered(b"b" * (1 << 20), close)
    assert b"".join(transport.writes).partition(b"\r\n\r\n")[2] == b"b" * (1 << 20)


async def test_what_is_no_request_is_told_before_the_connection_closes() -> None:
    transport = await answered(b"", b"no HTTP at all\r\n\r\n")
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 400 ")
