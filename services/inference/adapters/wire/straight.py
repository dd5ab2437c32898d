"""Bytes of a large body go from the socket to where its message is put together, and nowhere else.

asyncio hands over what it read as new bytes, and what comes in pieces has to be joined: two copies
of each byte beside the kernel's, which was a tenth of a request of 1 MB.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["StraightReader"]


class Filling(Protocol):
    """A connection amid a frame whose bytes it wants where it says."""

    def room(self) -> memoryview:
        """Where the next bytes go."""

    def filled(self, size: int) -> None:
        """So many have come."""

    def connection_lost(self, error: Exception | None) -> None:
        """As `asyncio.Protocol` has it."""

    def pause_writing(self) -> None:
        """As `asyncio.Protocol` has it."""

    def resume_writing(self) -> None:
        """As `asyncio.Protocol` has it."""


class StraightReader(asyncio.BufferedProtocol):
    """The protocol of a connection's transport until such a frame ends.

    Args:
        connection: Whose; it sets the transport's protocol, and sets it back.
    """

    def __init__(self, connection: Filling) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._connection.room()

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        self._connection.filled(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._connection.resume_writing()
