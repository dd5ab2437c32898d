"""Writes the log of one attempt."""

from __future__ import annotations

import os
import time
from pathlib import Path

from services.training.supervisor.log_format import Entry, index_path, pack, rank_path

__all__ = ["LogWriter"]

_LONGEST_LINE = 64 * 1024
_TAIL_BYTES = 8 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class _Stream:
    """What one process wrote so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, _FLAGS, 0o600)
        self.size = os.fstat(self.descriptor).st_size
        self.line_start = self.size


class LogWriter:
    """Writes what processes print, by line and in the order of arrival.

    Args:
        folder: The attempt's log folder.
        process_count: How many processes there are.
        limit_bytes: Once so much is written, one last line says so and the rest is dropped.
    """

    def __init__(self, folder: Path, process_count: int, limit_bytes: int) -> None:
        self._index = os.open(index_path(folder), _FLAGS, 0o600)
        self._streams = [_Stream(rank_path(folder, rank)) for rank in range(process_count)]
        self._left = limit_bytes

    def write(self, rank: int, data: bytes) -> None:
        """Append what a process printed."""
        if self._left <= 0:
            return
        self._left -= len(data)
        if self._left <= 0:
            data = data + b"\n[the log is full; what follows is dropped]\n"
        stream = self._streams[rank]
        now = time.time_ns() // 1000
        os.write(stream.descriptor, data)
        entries = []
        base, position = stream.size, 0
        while (end := data.find(b"\n", position)) >= 0:
            entries.append(self._line(stream, rank, now, base + end))
            stream.line_start = base + end + 1
            position = end + 1
        stream.size = base + len(data)
        # Output without line ends, such as progress bars, is cut so that readers see it in time.
        if stream.size - stream.line_start >= _LONGEST_LINE:
            entries.append(self._line(stream, rank, now, stream.size))
            stream.line_start = stream.size
        if entries:
            os.write(self._index, b"".join(entries))

    def finish(self, rank: int) -> None:
        """Count what a process printed after its last line end as a line."""
        stream = self._streams[rank]
        if stream.size > stream.line_start:
            now = time.time_ns() // 1000
            os.write(self._index, self._line(stream, rank, now, stream.size))
            stream.line_start = stream.size

    def tail(self, rank: int, lines: int = 20) -> str:
        """The last lines that a process printed, at most 2,000 characters."""
        stream = self._streams[rank]
        with stream.path.open("rb") as file:
            file.seek(max(0, stream.size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])[-2000:]

    def close(self) -> None:
        """Close the files."""
        os.close(self._index)
        for stream in self._streams:
            os.close(stream.descriptor)

    @staticmethod
    def _line(stream: _Stream, rank: int, now: int, end: int) -> bytes:
        return pack(Entry(now, rank, end - stream.line_start, stream.line_start))
