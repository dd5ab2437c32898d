"""Bodies of requests: read within bounds, inflated within the same."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from starlette.requests import Request

from services.inference.errors import InvalidInference, TooManyInferences
from tessera_kit.http.status import BodyTooLarge

__all__ = ["Bodies"]

_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""What zlib calls the formats of RFC 9110, section 8.4.1."""
_PIECE: Final = 1 << 20
_RETRY_SECONDS: Final = 0.1


class Bodies:
    """Reads bodies, and bounds what all of them hold together.

    Args:
        most: Most bytes of one body, also after inflating.
        held: Most bytes of all bodies whose requests are not answered yet.
    """

    def __init__(self, most: int, held: int) -> None:
        self._most = most
        self._bound = held
        self.held = 0
        """Bytes of all bodies."""

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, for as long as the block lasts.

        Raises:
            BodyTooLarge: It has, or inflates to, more bytes than it may.
            TooManyInferences: The bodies of all requests have as many as they may.
            InvalidInference: It is not encoded as it says.
            ClientDisconnect: The caller went away.
        """
        pieces: list[bytes] = []
        count = 0
        try:
            async with aclosing(request.stream()) as stream:
                async for piece in stream:
                    count = self._grow(count, len(piece))
                    pieces.append(piece)
            encoding = request.headers.get("content-encoding", "").strip().lower()
            if encoding not in ("", "identity"):
                packed, pieces = b"".join(pieces), []
                for piece in _inflated(packed, encoding):
                    count = self._grow(count, len(piece), packed=len(packed))
                    pieces.append(piece)
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
        finally:
            self.held -= count

    def _grow(self, count: int, size: int, packed: int = 0) -> int:
        if count + size - packed > self._most:
            raise BodyTooLarge(
                f"the body may have at most {self._most} bytes, also after it is inflated",
                metadata={"most": str(self._most)},
            )
        if self.held + size > self._bound:
            raise TooManyInferences(
                "the gateway holds as many bytes of requests as it may", retry_after=_RETRY_SECONDS
            )
        self.held += size
        return count + size


def _inflated(packed: bytes, encoding: str) -> Iterator[bytes]:
    window = _WINDOWS.get(encoding)
    if window is None:
        raise InvalidInference(
            f"the content encoding {encoding[:32]!r} is not known; send gzip, deflate or none"
        )
    inflate = zlib.decompressobj(window)
    try:
        while not inflate.eof:
            piece = inflate.decompress(packed, _PIECE)
            packed = inflate.unconsumed_tail
            if not piece and not packed:
                break
            yield piece
    except zlib.error:
        raise InvalidInference(f"the body is not {encoding}") from None
    if not inflate.eof:
        raise InvalidInference(f"the body ends before its {encoding} stream does")
    if inflate.unused_data:
        raise InvalidInference(f"the body goes on after its {encoding} stream")
