"""A request's body: decoded as it arrives, handed to the thread that inserts it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from devstack.clickhouse.codec import Decoder
from devstack.clickhouse.types import Receive

_STALL_SECONDS = 300.0


class ClientDisconnectedError(Exception):
    """The client went away before its request was complete."""


class Body:
    """The decoded body of one request."""

    def __init__(self, receive: Receive, decoder: Decoder) -> None:
        self.receive = receive
        self._decoder = decoder
        self._loop = asyncio.get_running_loop()
        self.complete = False

    async def read(self, limit: int) -> bytes:
        """Reads until the body ends or more than `limit` bytes have come.

        Raises:
            ClientDisconnectedError: the client went away.
            QueryError: the body is not in its announced encoding.
        """
        parts: list[bytes] = []
        length = 0
        while not self.complete and length <= limit:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            self.complete = not message.get("more_body", False)
            part = self._decoder.decode(message.get("body", b""))
            parts.append(part)
            length += len(part)
        return b"".join(parts)

    def chunks(self, first: bytes, size: int) -> Iterator[bytes]:
        """`first`, then the rest of the body in chunks of about `size` bytes.

        For a thread outside the event loop, which it blocks.
        """
        if first:
            yield first
        while not self.complete:
            read = asyncio.run_coroutine_threadsafe(self.read(size), self._loop)
            yield read.result(_STALL_SECONDS)
