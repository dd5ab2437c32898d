"""A lean HTTP/1.1 client for load: one kept connection, one request at a time, few steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["HttpCaller"]

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class HttpCaller(asyncio.Protocol):
    """Posts the same bytes again and again; it connects when it is first asked, and after a loss.

    It takes answers that say their length, as both servers that are compared do.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._data = bytearray()

    @staticmethod
    def post(path: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
        """The bytes of a request."""
        lines = [f"POST {path} HTTP/1.1", "host: bench", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join(lines).encode() + _HEAD_END + body

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns the answer's status and body.

        Raises:
            ConnectionError: The server closed the connection before it had answered.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self._host, self._port)
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    # The transport's side.

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits."""
        self._transport = None
        self._data.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer, or all of it."""
        self._data += data
        end = self._data.find(_HEAD_END)
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        at = head.find(_LENGTH)
        length = 0 if at < 0 else int(head[at + len(_LENGTH) :].partition(b"\r\n")[0])
        start = end + len(_HEAD_END)
        if len(self._data) < start + length or self._answer is None:
            return
        body = bytes(self._data[start : start + length])
        self._data.clear()
        if not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))
