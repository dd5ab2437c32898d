"""A spool's folder: the segments that the gateway appends to, and up to where they were shipped.

Two processes share it, each with a lock of its own: the gateway makes segments and appends to the
newest, the shipper reads them, notes its position and removes what lies before it. Neither waits
for the other, and each may be killed at any time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

from services.inference.errors import StoreUnavailable

__all__ = ["Position", "SpoolFolder"]

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".spool"
_POSITION: Final = "position.json"


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
        stems = (path.stem for path in self.directory.glob(f"*{_SUFFIX}"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{segment:020d}{_SUFFIX}"

    def size(self, segment: int) -> int:
        """Bytes of a segment; 0 for one that is not there."""
        try:
            return self.path(segment).stat().st_size
        except FileNotFoundError:
            return 0

    def pending_bytes(self) -> int:
        """Bytes that the bus has not acknowledged."""
        shipped = self.read_position()
        pending = sum(self.size(number) for number in self.segments() if number >= shipped.segment)
        return max(0, pending - min(shipped.offset, self.size(shipped.segment)))

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
