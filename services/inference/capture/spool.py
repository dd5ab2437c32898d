"""Append-only segment files that hold payload records until the bus has acknowledged them.

An append is one `writev` into the page cache: it outlives the process (kill -9), though not the
machine's power. A tail torn by a kill is cut off when the spool is opened again; its request never
got a reply. An answer in parts is noted before its model is asked: when the process is killed amid
it, that note becomes its record.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from services.inference.capture.begun import BegunRecords
from services.inference.capture.frames import (
    HEADER_BYTES,
    frame_bytes,
    frame_header,
    split_frames,
)
from services.inference.errors import SpoolFull, StoreUnavailable
from tessera.events.v1 import inference_events_pb2

__all__ = ["Position", "Spool", "SpoolBatch"]

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".spool"
_POSITION: Final = "position.json"
_RETRY_SECONDS: Final = 5.0


class Position(NamedTuple):
    """A place in the spool; places compare in the order in which records were appended."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class SpoolBatch:
    """Records in the order of their appending."""

    records: list[bytes]
    end: Position
    """Where the next batch starts."""


class Spool:
    """The spool of one process. Not for several threads.

    Args:
        directory: Where the segments lie; made when missing.
        segment_bytes: Size after which a new segment is begun.
        max_bytes: Most bytes that wait for the bus; beyond them `append` refuses.
    """

    def __init__(self, directory: Path, *, segment_bytes: int, max_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._room = max_bytes
        """Bytes that may wait for the bus beside what the answers that have begun take."""
        self._begun = BegunRecords(directory / "begun")
        self._appended = asyncio.Event()
        self._file = -1
        self._lock = -1
        self._head = Position(0, 0)
        self._shipped = Position(0, 0)
        self._sizes: dict[int, int] = {}
        self._pending = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the bus."""
        return self._pending

    def open(self) -> None:
        """Recover what a former process left, and make ready to append.

        Raises:
            StoreUnavailable: Another process has the spool open.
            OSError: The directory cannot be used.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreUnavailable(f"{self._directory} is in use by another process") from None
        self._shipped = self._read_position()
        found = sorted(
            int(path.stem) for path in self._directory.glob(f"*{_SUFFIX}") if path.stem.isdigit()
        )
        for segment in found:
            if segment < self._shipped.segment:
                self._path(segment).unlink()
            else:
                self._sizes[segment] = self._path(segment).stat().st_size
        last = self._cut_torn_tail()
        newest = max([*self._sizes, self._shipped.segment])
        self._begin_segment(newest + 1)
        first = min(self._sizes)
        if self._shipped.segment not in self._sizes:
            self._shipped = Position(first, 0)
        self._pending = sum(self._sizes.values()) - self._shipped.offset
        self._recover_begun(last)
        if self._pending > 0:
            _log.info("the spool holds %d bytes for the bus", self._pending)
            self._appended.set()

    def close(self) -> None:
        """Stop appending; what is there stays for the next `open`."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def append(self, record: bytes) -> None:
        """Add a record; when this returns, a kill of the process does not lose it.

        Raises:
            SpoolFull: No room is left, by the bound or on the disk; nothing was added.
        """
        header = frame_header(record)
        size = len(header) + len(record)
        if self._pending + size > self._room:
            raise _full()
        segment, offset = self._head
        if offset and offset + size > self._segment_bytes:
            self._begin_segment(segment + 1)
            segment, offset = self._head
        try:
            written = os.writev(self._file, (header, record))
        except OSError as error:
            written = 0
            _log.error("the spool cannot be written: %s", error)
        if written != size:
            os.ftruncate(self._file, offset)
            raise SpoolFull("the log of payloads has no room on disk", retry_after=_RETRY_SECONDS)
        self._head = Position(segment, offset + size)
        self._sizes[segment] = offset + size
        self._pending += size
        if not self._appended.is_set():
            self._appended.set()

    def begin(self, name: str, record: bytes) -> None:
        """Note an answer in parts whose model is about to be asked; `append` and `end` follow it.

        Args:
            name: The record's `tessera_request_id`.
            record: What is appended in its place when the process is killed before its end.

        Raises:
            SpoolFull: No room is left; nothing was noted.
        """
        if self._pending + HEADER_BYTES + len(record) > self._room:
            raise _full()
        try:
            self._room -= self._begun.put(name, record)
        except OSError as error:
            _log.error("the spool cannot be written: %s", error)
            text = "the log of payloads has no room on disk"
            raise SpoolFull(text, retry_after=_RETRY_SECONDS) from None

    def add(self, name: str, more: bytes) -> None:
        """Merge what is known by now into what `begin` noted; without room it stays as it was."""
        if self._pending + HEADER_BYTES + len(more) > self._room:
            return
        try:
            self._room -= self._begun.add(name, more)
        except OSError as error:
            _log.error("the spool cannot be written: %s", error)

    def end(self, name: str) -> None:
        """Forget what `begin` noted, in the same step as the record of the end was appended."""
        self._room += self._begun.drop(name)

    async def wait(self) -> None:
        """Return when there may be records that were not read yet."""
        await self._appended.wait()

    def read(self, start: Position, *, max_bytes: int, max_records: int) -> SpoolBatch:
        """The records from a position on, from one segment; none when all were read.

        Args:
            start: `shipped`, or the `end` of the batch before.
            max_bytes: About how much to read; a single larger record is read whole.
            max_records: Most records.
        """
        segment, offset = start
        while True:
            if (segment, offset) >= self._head:
                self._appended.clear()
                return SpoolBatch([], Position(segment, offset))
            size = self._sizes.get(segment, 0)
            if offset < size:
                records, used = self._read_frames(segment, offset, size, max_bytes, max_records)
                if records:
                    return SpoolBatch(records, Position(segment, offset + used))
                _log.error(
                    "spool segment %d is damaged at byte %d: %d bytes are skipped",
                    segment,
                    offset,
                    size - offset,
                )
            segment, offset = segment + 1, 0

    @property
    def shipped(self) -> Position:
        """Up to where the bus has acknowledged."""
        return self._shipped

    def ship(self, position: Position) -> None:
        """Note that the bus has everything before `position`; whole segments before it go away.

        The note may be lost by a kill right after: what follows the last one is then read again.
        """
        if position <= self._shipped:
            return
        self._shipped = position
        self._write_position(position)
        for segment in [number for number in self._sizes if number < position.segment]:
            self._path(segment).unlink(missing_ok=True)
            del self._sizes[segment]
        self._pending = sum(self._sizes.values()) - (
            position.offset if position.segment in self._sizes else 0
        )

    def _read_frames(
        self, segment: int, offset: int, size: int, max_bytes: int, max_records: int
    ) -> tuple[list[bytes], int]:
        left = size - offset
        with self._path(segment).open("rb") as file:
            file.seek(offset)
            data = file.read(min(left, max_bytes))
            records, used = split_frames(data, max_records)
            # One that is larger than a batch is read whole, and nothing behind it.
            whole = frame_bytes(data)
            if not records and len(data) < whole <= left:
                data += file.read(whole - len(data))
                records, used = split_frames(data, 1)
        return records, used

    def _recover_begun(self, last: bytes) -> None:
        """Append what a kill cut short.

        An answer's end is appended and its note forgotten in one step, which nothing else of the
        process comes between: only the spool's last record can be of an answer that is still noted.
        """
        left = self._begun.left()
        ended = inference_events_pb2.PayloadRecord.FromString(last) if left and last else None
        for name, record in left.items():
            if ended is None or ended.tessera_request_id != name:
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
            path = self._path(segment)
            data = path.read_bytes()
            records, end = split_frames(data, len(data))
            if end < self._sizes[segment]:
                _log.warning("cut %d torn bytes from the spool", self._sizes[segment] - end)
                os.truncate(path, end)
                self._sizes[segment] = end
            if records:
                return records[-1]
        return b""

    def _begin_segment(self, segment: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        opened = os.open(self._path(segment), flags, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file = opened
        self._head = Position(segment, 0)
        self._sizes[segment] = 0

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:020d}{_SUFFIX}"

    def _read_position(self) -> Position:
        try:
            stored = json.loads((self._directory / _POSITION).read_bytes())
            return Position(int(stored["segment"]), int(stored["offset"]))
        except FileNotFoundError:
            return Position(0, 0)
        except (ValueError, KeyError, TypeError):
            # Everything is sent again; the sink drops what it has.
            _log.error("the spool's position file is damaged: everything in it is sent again")
            return Position(0, 0)

    def _write_position(self, position: Position) -> None:
        path = self._directory / _POSITION
        new = path.with_suffix(".new")
        new.write_text(json.dumps(position._asdict()), "utf-8")
        new.replace(path)


def _full() -> SpoolFull:
    return SpoolFull(
        "the log of payloads is full because the message bus is away", retry_after=_RETRY_SECONDS
    )
