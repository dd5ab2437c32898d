"""The shipper's end of the spool: what was appended is read in order, and noted once it is away."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.inference.capture.folder import Position, SpoolFolder
from services.inference.capture.frames import END, HEADER_BYTES, frame_bytes, split_frames

__all__ = ["SpoolBatch", "SpoolReader"]

_log = logging.getLogger(__name__)

_LOCK: Final = "reader.lock"
_SPARE_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True)
class SpoolBatch:
    """Records in the order of their appending."""

    records: list[bytes]
    end: Position
    """Where the next batch starts."""
    is_cut: bool = False
    """Whether there is more, as a bound or its segment ended it."""


class SpoolReader:
    """Reads a spool, whether or not its gateway lives. One at a time, and not for several threads.

    Only the newest segment grows. What is not whole at its end is still being written, or was cut
    short by a kill and goes when the gateway opens the spool again.

    Args:
        directory: Where the segments lie; made when missing.
        spare_bytes: Most bytes of shipped segments that are kept to be written again.
    """

    def __init__(self, directory: Path, *, spare_bytes: int = _SPARE_BYTES) -> None:
        self._folder = SpoolFolder(directory)
        self._spare_bytes = spare_bytes
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
        self._put_shipped_aside()
        if pending := self.pending_bytes():
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
        """Bytes that the bus has not acknowledged; reads the newest segment to find its end."""
        segments = self._folder.segments()
        if not segments:
            return 0
        _, end = self._folder.records(segments[-1])
        return self._folder.pending_bytes(Position(segments[-1], end))

    def appended_at(self) -> float:
        """When a record was appended last, as a Unix time to the kernel's tick; 0 for never."""
        segments = self._folder.segments()
        return self._folder.written_at(segments[-1]) if segments else 0.0

    def file_bytes(self) -> int:
        """Bytes of the files that the bus has not all of: what waits, and up to a file more."""
        return sum(map(self._folder.size, self._folder.segments()))

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
                records, used, is_cut = self._read_frames(
                    segment, offset, size, max_bytes, max_records
                )
                if records:
                    end = Position(segment, offset + used)
                    return SpoolBatch(records, end, is_cut or not is_newest)
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
        """Note that the bus has everything before `position`; segments before it are put aside.

        The note may be lost by a kill right after: what follows the last one is then read again.
        """
        if position <= self._shipped:
            return
        moved_on = position.segment > self._shipped.segment
        self._shipped = position
        self._folder.write_position(position)
        if moved_on:
            self._put_shipped_aside()

    def _put_shipped_aside(self) -> None:
        for segment in self._folder.segments():
            if segment < self._shipped.segment:
                self._folder.put_aside(segment, self._spare_bytes)

    def _read_frames(
        self, segment: int, offset: int, size: int, max_bytes: int, max_records: int
    ) -> tuple[list[bytes], int, bool]:
        """The records, their bytes, and whether a bound ended them."""
        left = size - offset
        with self._folder.path(segment).open("rb") as file:
            if os.pread(file.fileno(), HEADER_BYTES, offset) == END:
                return [], 0, False
            file.seek(offset)
            data = file.read(min(left, max_bytes))
            records, used = split_frames(data, max_records, segment)
            # One that is larger than a batch is read whole, and nothing behind it.
            whole = frame_bytes(data)
            if not records and len(data) < whole <= left:
                data += file.read(whole - len(data))
                records, used = split_frames(data, 1, segment)
        is_cut = len(records) >= max_records or (len(data) < left and _goes_on(data[used:]))
        return records, used, is_cut


def _goes_on(rest: bytes) -> bool:
    """Whether what follows a batch's records may be one more, of which a bound left a part."""
    return len(rest) < HEADER_BYTES or frame_bytes(rest) > len(rest)
