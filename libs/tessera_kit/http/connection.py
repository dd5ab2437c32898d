"""A connection of the HTTP door: the head of a response leaves with its body, in one call.

uvicorn writes a response's head and its body apart. On loopback each call delivers before it
returns, and a caller that has the head alone is woken for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["OneWriteProtocol"]

_AT_ONCE: Final = 1 << 16
"""Bytes that do not wait for the end of the turn, nor are copied together."""


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, over a transport that gathers what one turn writes."""

    def connection_made(self, transport: Any) -> None:
        """Begin, with the transport wrapped."""
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]


class _Gathering:
    """A transport that sends at the end of the loop's turn what was written in it.

    Args:
        transport: Where it goes.
        loop: Whose turns count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, at the end of this turn at the latest."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Close the connection once all is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, size = self._pieces, self._size
        if not pieces:
            return
        self._pieces, self._size = [], 0
        if size < _AT_ONCE:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)
