"""Memory that this process and a runtime on the same machine have both mapped."""

from __future__ import annotations

import logging
import mmap
import os
from bisect import insort
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Place", "SharedRegion"]

_log = logging.getLogger(__name__)

_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is by its name
_PAGE: Final = 4096
_GROWTH: Final = 4 << 20
"""Bytes of memory that are taken at once when more are lent than ever before."""


class Place(NamedTuple):
    """A part of a region that is lent."""

    offset: int
    size: int


class SharedRegion:
    """Lends parts of a shared memory object, lowest first. Not for several threads.

    Memory is taken from the machine as more of it is lent at once, and kept until `close`.

    Args:
        name: The object's, without a slash.
        size: Most bytes that are lent at once.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size // _PAGE * _PAGE
        self._lent: list[Place] = []
        self._taken = 0
        self._descriptor = -1
        self._memory: mmap.mmap | None = None

    @property
    def lent(self) -> int:
        """How many parts are lent."""
        return len(self._lent)

    def open(self) -> None:
        """Make the object, for this user alone.

        Raises:
            OSError: The machine has no shared memory, or the name is taken.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(_FOLDER / self.name, flags, 0o600)
        try:
            os.ftruncate(self._descriptor, self.size)
            self._memory = mmap.mmap(self._descriptor, self.size)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Remove the object; who has it mapped keeps it until then."""
        if self._descriptor < 0:
            return
        self.remove(self.name)
        os.close(self._descriptor)
        self._descriptor, self._memory = -1, None

    @staticmethod
    def remove(name: str) -> None:
        """Remove an object; one that is not there is fine."""
        (_FOLDER / name).unlink(missing_ok=True)

    def lend(self, size: int) -> Place | None:
        """A part that nobody else has, in whole pages; None when there is no room."""
        size = max(_PAGE, -(-size // _PAGE) * _PAGE)
        offset = 0
        for place in self._lent:
            if place.offset - offset >= size:
                break
            offset = place.offset + place.size
        if offset + size > self.size or not self._take(offset + size):
            return None
        place = Place(offset, size)
        insort(self._lent, place)
        return place

    def give_back(self, place: Place) -> None:
        """End a loan."""
        self._lent.remove(place)

    def view(self, offset: int, size: int) -> memoryview:
        """Bytes of the region.

        Raises:
            ValueError: It is not open, or has fewer.
        """
        if self._memory is None or offset + size > self.size:
            raise ValueError(f"the region has no {size} bytes at {offset}")
        return memoryview(self._memory)[offset : offset + size]

    def _take(self, end: int) -> bool:
        """See to it that there is memory behind the first bytes: a write would kill otherwise."""
        if end <= self._taken:
            return True
        more = min(self.size, -(-end // _GROWTH) * _GROWTH) - self._taken
        try:
            os.posix_fallocate(self._descriptor, self._taken, more)
        except OSError as error:
            _log.warning("no more shared memory for tensors: %s", error)
            self.size = self._taken
            return False
        self._taken += more
        return True


def stale_regions(prefix: str) -> list[str]:
    """Names of objects that begin so."""
    return sorted(path.name for path in _FOLDER.glob(f"{prefix}*"))
