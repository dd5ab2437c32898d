"""The shipper's end of the spool: what was appended is read in order, and noted once it is away."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.inference.capture.folder import Position, SpoolFolder
from services.inference.capture.frames import frame_bytes, split_frames

__all__ = ["SpoolBatch", "SpoolReader"]

_log = logging.getLogger(__name__)

_LOCK: Final = "reader.lock"


@dataclass(frozen=True, slots=True)
class SpoolBatch:
    """Records in the order of their appending."""

    records: list[bytes]
    end: Position
    """Where the next batch starts."""


class SpoolReader:
    """Reads a spool, whether or not its gateway lives. One at a time, and not for several threads.

    Only the newest segment grows. What is not whole at its end is still being written, or was cut
    short by a kill and goes when the gateway opens the spool again.

    Args:
        directory: Where the segments lie; made when missing.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = SpoolFolder(directory)
        self._lock = -1
        self._shipped = Position(0, 0)

    def open(self) -> None:
        """Find up to where was shipped.

        Raises:
            StoreUnavailable: Another process reads the spool.
            OSError: The directory cannot be used.
        """
        self._lock = self._folder.lock(_LOCK)
        self._shipped = self._folder.read_position()
        self._remove_shipped()
        if pending := self._folder.pending_bytes():
            _log.info("the spool holds %d bytes for the bus", pending)

    def close(self) -> None:
        """Let another process read."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    @property
    def shipped(self) -> Position:
        """Up to where the bus has acknowledged."""
        return self._shipped

    def pending_bytes(self) -> int:
        """Bytes that the bus has not acknowledged."""
        return self._folder.pending_bytes()

    def read(self, start: Position, *, max_bytes: int, max_records: int) -> SpoolBatch:
        """The records from a position on, from one segment; none when all were read.

        Args:
            start: `shipped`, or the `end` of the batch before.
            max_bytes: About how much to read; a single larger record is read whole.
            max_records: Most records.
        """
        # Listed before any is read: one that has a successor by now is whole.
        segments = self._folder.segments()
        segment, offset = start
        while True:
            size = self._folder.size(segment)
            is_newest = not segments or segment >= segments[-1]
            if offset < size:
                records, used = self._read_frames(segment, offset, size, max_bytes, max_records)
                if records:
                    return SpoolBatch(records, Position(segment, offset + used))
                if not is_newest:
                    _log.error(
                        "spool segment %d is damaged at byte %d: %d bytes are skipped",
                        segment,
                        offset,
                        size - offset,
                    )
            if is_newest:
                return SpoolBatch([], Position(segment, offset))
            segment, offset = next(number for number in segments if number > segment), 0

    def ship(self, position: Position) -> None:
        """Note that the bus has everything before `position`; whole segments before it go away.

        The note may be lost by a kill right after: what follows the last one is then read again.
        """
        if position <= self._shipped:
            return
        moved_on = position.segment > self._shipped.segment
        self._shipped = position
        self._folder.write_position(position)
        if moved_on:
            self._remove_shipped()

    def _remove_shipped(self) -> None:
        for segment in self._folder.segments():
            if segment < self._shipped.segment:
                self._folder.path(segment).unlink(missing_ok=True)

    def _read_frames(
        self, segment: int, offset: int, size: int, max_bytes: int, max_records: int
    ) -> tuple[list[bytes], int]:
        left = size - offset
        with self._folder.path(segment).open("rb") as file:
            file.seek(offset)
            data = file.read(min(left, max_bytes))
            records, used = split_frames(data, max_records)
            # One that is larger than a batch is read whole, and nothing behind it.
            whole = frame_bytes(data)
            if not records and len(data) < whole <= left:
                data += file.read(whole - len(data))
                records, used = split_frames(data, 1)
        return records, used
