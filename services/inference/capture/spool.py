"""The gateway's end of the spool: records are appended before their replies leave.

An append is one `pwritev` into the page cache: it outlives the process (kill -9), though not the
machine's power. A tail torn by a kill is cut off when the spool is opened again; its request never
got a reply. An answer in parts is noted before its model is asked: when the process is killed amid
it, that note becomes its record.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from services.inference.capture.begun import BegunRecords
from services.inference.capture.folder import Position, SpoolFolder
from services.inference.capture.frames import END, HEADER_BYTES, frame_header
from services.inference.errors import SpoolFull
from tessera.events.v1 import inference_events_pb2

__all__ = ["Spool"]

_log = logging.getLogger(__name__)

_LOCK: Final = "lock"
_RETRY_SECONDS: Final = 5.0


class Spool:
    """What one process appends to. Not for several threads, but for `pending_bytes`.

    What the shipper took is looked at where it matters: before a record is refused, and when a
    segment is begun.

    Args:
        directory: Where the segments lie; made when missing.
        segment_bytes: Size after which a new segment is begun.
        max_bytes: Most bytes that wait for the bus; beyond them `append` refuses.
    """

    def __init__(self, directory: Path, *, segment_bytes: int, max_bytes: int) -> None:
        self._folder = SpoolFolder(directory)
        self._segment_bytes = segment_bytes
        self._room = max_bytes
        """Bytes that may wait for the bus beside what the answers that have begun take."""
        self._begun = BegunRecords(directory / "begun")
        self._file = -1
        self._lock = -1
        self._segment = self._end = 0
        """Which segment is appended to, and its bytes."""
        self._shipped = Position(0, 0)
        self._sizes: dict[int, int] = {}
        """Bytes of the segments that the bus has not all of; of the newest at the last look."""
        self._pending = 0
        """Bytes that waited for the bus at the last look, and what was appended since."""

    def pending_bytes(self) -> int:
        """Bytes that wait for the bus; may be asked from any thread."""
        return self._folder.pending_bytes(Position(self._segment, self._end))

    def open(self) -> None:
        """Recover what a former process left, and make ready to append.

        Raises:
            StoreUnavailable: Another process has the spool open.
            OSError: The directory cannot be used.
        """
        self._lock = self._folder.lock(_LOCK)
        self._shipped = self._folder.read_position()
        self._sizes = {
            segment: self._folder.size(segment)
            for segment in self._folder.segments()
            if segment >= self._shipped.segment
        }
        # Before there is a newer segment: the shipper may remove any but the newest.
        left = self._answers_cut_short(self._cut_torn_tail())
        # Above those put aside too: what they hold must not pass for a newer segment's.
        former = [*self._sizes, *self._folder.spares(), self._shipped.segment]
        self._begin_segment(max(former) + 1)
        self._pending = self._reckon()
        self._recover(left)
        if self._pending > 0:
            _log.info("the spool holds %d bytes for the bus", self._pending)

    def close(self) -> None:
        """Stop appending; what is there stays for the shipper."""
        if self._file >= 0:
            os.ftruncate(self._file, self._end)
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def append(self, *parts: bytes) -> None:
        """Add a record, in as many parts; when this returns, a kill does not lose it.

        Raises:
            SpoolFull: No room is left, by the bound or on the disk; nothing was added.
        """
        size = HEADER_BYTES + sum(map(len, parts))
        if not self._has_room(size):
            raise _full()
        if self._end and self._end + size > self._segment_bytes:
            self._look()
            self._begin_segment(self._segment + 1)
        header = frame_header(*parts, seed=self._segment)
        try:
            written = os.pwritev(self._file, (header, *parts, END), self._end)
        except OSError as error:
            written = 0
            _log.error("the spool cannot be written: %s", error)
        if written != size + len(END):
            os.ftruncate(self._file, self._end)
            raise SpoolFull("the log of payloads has no room on disk", retry_after=_RETRY_SECONDS)
        self._end += size
        self._pending += size

    def begin(self, name: str, record: bytes) -> None:
        """Note an answer in parts whose model is about to be asked; `append` and `end` follow it.

        Args:
            name: The record's `tessera_request_id`.
            record: What is appended in its place when the process is killed before its end.

        Raises:
            SpoolFull: No room is left; nothing was noted.
        """
        if not self._has_room(HEADER_BYTES + len(record)):
            raise _full()
        try:
            self._room -= self._begun.put(name, record)
        except OSError as error:
            _log.error("the spool cannot be written: %s", error)
            text = "the log of payloads has no room on disk"
            raise SpoolFull(text, retry_after=_RETRY_SECONDS) from None

    def add(self, name: str, more: bytes) -> None:
        """Merge what is known by now into what `begin` noted; without room it stays as it was."""
        if not self._has_room(HEADER_BYTES + len(more)):
            return
        try:
            self._room -= self._begun.add(name, more)
        except OSError as error:
            _log.error("the spool cannot be written: %s", error)

    def end(self, name: str) -> None:
        """Forget what `begin` noted, in the same step as the record of the end was appended."""
        self._room += self._begun.drop(name)

    def _has_room(self, size: int) -> bool:
        if self._pending + size <= self._room:
            return True
        self._look()
        return self._pending + size <= self._room

    def _look(self) -> None:
        """See what was shipped meanwhile."""
        self._sizes[self._segment] = self._end
        self._shipped = self._folder.read_position()
        for segment in [number for number in self._sizes if number < self._shipped.segment]:
            del self._sizes[segment]
        self._pending = self._reckon()

    def _reckon(self) -> int:
        segment, offset = self._shipped
        return sum(self._sizes.values()) - min(offset, self._sizes.get(segment, 0))

    def _answers_cut_short(self, last: bytes) -> dict[str, bytes]:
        """The notes of answers that a kill cut short.

        An answer's end is appended and its note forgotten in one step, which nothing else of the
        process comes between: only the spool's last record can be of an answer that is still noted.
        """
        left = self._begun.left()
        if left and last:
            ended = inference_events_pb2.PayloadRecord.FromString(last).tessera_request_id
            if left.pop(ended, None) is not None:
                self._begun.drop(ended)
        return left

    def _recover(self, left: dict[str, bytes]) -> None:
        """Append what a kill cut short."""
        for name, record in left.items():
            _log.warning("the answer to request %s was cut short", name)
            try:
                self.append(record)
            except SpoolFull as error:
                _log.error("answers that were cut short wait for another start: %s", error)
                return
            self._begun.drop(name)

    def _cut_torn_tail(self) -> bytes:
        """Make the spool's end whole; returns its last record, empty when it has none."""
        for segment in sorted(self._sizes, reverse=True):
            try:
                records, end = self._folder.records(segment)
            except FileNotFoundError:
                # Shipped meanwhile, and no note of its records is left: see `open`.
                return b""
            if end < self._sizes[segment]:
                _log.info("cut %d bytes behind the spool's last record", self._sizes[segment] - end)
                os.truncate(self._folder.path(segment), end)
                self._sizes[segment] = end
            if records:
                return records[-1]
        return b""

    def _begin_segment(self, segment: int) -> None:
        if self._file >= 0:
            # Before it has a successor: see `SpoolFolder`.
            os.ftruncate(self._file, self._end)
        opened = self._folder.take(segment)
        if self._file >= 0:
            os.close(self._file)
        self._file = opened
        self._segment, self._end = segment, 0
        self._sizes[segment] = 0


def _full() -> SpoolFull:
    return SpoolFull(
        "the log of payloads is full because the message bus is away", retry_after=_RETRY_SECONDS
    )
