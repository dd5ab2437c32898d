"""A message that is put together where it is read to."""

from __future__ import annotations

from io import BytesIO

from services.inference.domain.fields import Piece

__all__ = ["WholeMessage"]


class WholeMessage:
    """A message of known length that is filled from its start to its end.

    The memory is taken from a `BytesIO`, which lends it for writing and then gives it away as bytes
    without a copy.

    Args:
        size: Its bytes.
    """

    __slots__ = ("_file", "_view", "filled", "size")

    def __init__(self, size: int) -> None:
        self._file = BytesIO(bytes(size))
        self._view = self._file.getbuffer()
        self.size = size
        self.filled = 0
        """Bytes that have come."""

    def room(self, most: int) -> memoryview:
        """Where the next bytes go, `most` of them; `filled` tells of those that came."""
        return self._view[self.filled : self.filled + most]

    def put(self, piece: Piece) -> Piece:
        """Take the start of a piece; returns what is left of it, of what follows the message."""
        view = memoryview(piece)
        end = min(len(view), self.size - self.filled)
        self.room(end)[:] = view[:end]
        self.filled += end
        return view[end:]

    def take(self) -> bytes:
        """The message, once it is all there; it is taken once."""
        self._view.release()
        return self._file.getvalue()
