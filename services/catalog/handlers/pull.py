"""A file of bytes that arrive on the event loop, read by a thread."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

__all__ = ["PulledFile", "ReadTooLarge"]


class ReadTooLarge(OSError):
    """A length in the data is larger than what is read at once."""


class PulledFile(io.RawIOBase):
    """Reads an asynchronous stream from another thread, pulling only what is asked for.

    Args:
        chunks: The stream, consumed on `loop`.
        loop: The event loop, which must not wait for the reading thread otherwise than in a task.
        most: Largest single read; a length in the data beyond it is refused at once.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop, most: int
    ) -> None:
        super().__init__()
        self._chunks = chunks
        self._loop = loop
        self._most = most
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end.

        Raises:
            ReadTooLarge: More than the largest single read is asked for.
        """
        if not 0 <= size <= self._most:
            raise ReadTooLarge(f"a read of {size} bytes")
        parts: list[bytes] = []
        missing = size
        while missing:
            if not self._rest:
                self._rest = self._pull()
                if not self._rest:
                    break
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def _pull(self) -> bytes:
        if self._ended:
            return b""
        chunk = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        self._ended = not chunk
        return chunk

    async def _next(self) -> bytes:
        return await anext(self._chunks, b"")
