"""Requests to an HTTP server with as little work of our own as can be, so that it can be loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Connection", "Window", "connections", "window"]


class Connection:
    """One kept connection, opened anew where the server has closed it; one request at a time."""

    def __init__(self, url: str, token: str) -> None:
        where = urlsplit(url)
        self._address = (where.hostname, where.port)
        self._head = (
            f"host: {where.netloc}\r\nauthorization: Bearer {token}\r\n"
            "content-type: application/json\r\n"
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()

    async def post(self, path: str, body: bytes) -> bytes:
        """Send JSON; return the answer's body.

        Raises:
            AssertionError: The status is not 200.
        """
        return await self._request(b"POST", path, body)

    async def get(self, path: str) -> bytes:
        """As `post`, without a body."""
        return await self._request(b"GET", path, b"")

    async def _request(self, method: bytes, path: str, body: bytes) -> bytes:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(
            b"%s %s HTTP/1.1\r\n%scontent-length: %d\r\n\r\n%s"
            % (method, path.encode(), self._head, len(body), body)
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in answer.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        content = await reader.readexactly(length)
        assert answer.split(b" ", 2)[1] == b"200", (answer[:200], content[:300])
        return content

    async def call(self, path: str, **fields: Any) -> Any:
        """As `post`, of a JSON object; returns the answer's."""
        return json.loads(await self.post(path, json.dumps(fields).encode()))


@contextmanager
def connections(url: str, token: str, count: int) -> Iterator[list[Connection]]:
    """Connections to a server."""
    opened = [Connection(url, token) for _ in range(count)]
    try:
        yield opened
    finally:
        for one in opened:
            one.close()


@dataclass(frozen=True, slots=True)
class Window:
    """What a window of load gave."""

    calls: int
    seconds: float
    times: list[float]

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


async def window(callers: Sequence[Callable[[int], Awaitable[object]]], seconds: float) -> Window:
    """Keep each caller calling for so long; a caller is given how many calls it made before."""
    times: list[float] = []
    began = perf_counter()
    end = began + seconds

    async def keep(call: Callable[[int], Awaitable[object]]) -> None:
        number = 0
        while (sent := perf_counter()) < end:
            await call(number)
            times.append(perf_counter() - sent)
            number += 1

    await asyncio.gather(*(keep(call) for call in callers))
    return Window(len(times), perf_counter() - began, times)
