"""A spool's folder: the segments that the gateway appends to, and up to where they were shipped.

Two processes share it, each with a lock of its own: the gateway makes segments and appends to the
newest, the shipper reads them, notes its position and puts aside what lies before it. Neither waits
for the other, and each may be killed at any time.

What was put aside is written again as a newer segment: its pages are still in the page cache, where
those of a new file have to be taken from the machine first. Segments are as long as their records,
but for the newest, behind whose end may lie what its file held before.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

from services.inference.capture.frames import END, split_frames
from services.inference.errors import StoreUnavailable

__all__ = ["Position", "SpoolFolder"]

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".segment"
_SPARE_SUFFIX: Final = ".spare"
_POSITION: Final = "position.json"
_MOST_SPARES: Final = 512
"""Smaller ones are not worth keeping: every start of a gateway leaves a segment of any size."""


class Position(NamedTuple):
    """A place in the spool; places compare in the order in which records were appended."""

    segment: int
    offset: int


class SpoolFolder:
    """The files of one spool.

    Args:
        directory: Where they lie.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def lock(self, name: str) -> int:
        """Make the folder if it is missing, and take a lock in it that ends with this process.

        Returns:
            The lock's file; closing it gives the lock back.

        Raises:
            StoreUnavailable: Another process has it.
            OSError: The folder cannot be used.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StoreUnavailable(f"{self.directory} is in use by another process") from None
        return lock

    def segments(self) -> list[int]:
        """The numbers of the segments, the oldest first."""
        return self._numbers(_SUFFIX)

    def spares(self) -> list[int]:
        """The numbers of the segments that were put aside, the oldest first."""
        return self._numbers(_SPARE_SUFFIX)

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{segment:020d}{_SUFFIX}"

    def spare_path(self, segment: int) -> Path:
        """The file of a segment that was put aside."""
        return self.directory / f"{segment:020d}{_SPARE_SUFFIX}"

    def size(self, segment: int) -> int:
        """Bytes of a segment's file; 0 for one that is not there."""
        return _size(self.path(segment))

    def written_at(self, segment: int) -> float:
        """When a segment was last written to, as a Unix time; 0 for one that is not there."""
        try:
            return self.path(segment).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def records(self, segment: int) -> tuple[list[bytes], int]:
        """A segment's whole records, and where they end.

        Raises:
            FileNotFoundError: It is not there.
        """
        data = self.path(segment).read_bytes()
        return split_frames(data, len(data), segment)

    def pending_bytes(self, end: Position) -> int:
        """Bytes that the bus has not acknowledged, where the newest segment ends there."""
        shipped = self.read_position()
        older = [number for number in self.segments() if shipped.segment <= number < end.segment]
        sizes = {number: self.size(number) for number in older}
        sizes[end.segment] = end.offset
        return max(0, sum(sizes.values()) - min(shipped.offset, sizes.get(shipped.segment, 0)))

    def take(self, segment: int) -> int:
        """Begin a segment, in the file that was put aside last if there is one.

        Returns:
            The file, open for writing.

        Raises:
            OSError: It cannot be made.
        """
        path, flags = self.path(segment), os.O_WRONLY | os.O_CLOEXEC
        spares = self.spares()
        if not spares:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        spare = self.spare_path(spares[-1])
        file = os.open(spare, flags)
        os.pwrite(file, END, 0)
        spare.rename(path)
        return file

    def put_aside(self, segment: int, most: int) -> None:
        """Keep a segment's file for a newer one; it goes away when those kept take `most` bytes."""
        path = self.path(segment)
        kept = sum(_size(self.spare_path(number)) for number in self.spares())
        if most // _MOST_SPARES <= _size(path) <= most - kept:
            path.rename(self.spare_path(segment))
        else:
            path.unlink(missing_ok=True)

    def read_position(self) -> Position:
        """Up to where the bus has acknowledged, as it was noted last."""
        try:
            stored = json.loads((self.directory / _POSITION).read_bytes())
            return Position(int(stored["segment"]), int(stored["offset"]))
        except FileNotFoundError:
            return Position(0, 0)
        except (ValueError, KeyError, TypeError):
            # Everything is sent again; the sink drops what it has.
            _log.error("the spool's position file is damaged: everything in it is sent again")
            return Position(0, 0)

    def write_position(self, position: Position) -> None:
        """Note it, whole or not at all."""
        path = self.directory / _POSITION
        new = path.with_suffix(".new")
        new.write_text(json.dumps(position._asdict()), "utf-8")
        new.replace(path)

    def _numbers(self, suffix: str) -> list[int]:
        stems = (path.stem for path in self.directory.glob(f"*{suffix}"))
        return sorted(int(stem) for stem in stems if stem.isdigit())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
