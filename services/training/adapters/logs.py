"""Reads the logs that supervisors write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.training.adapters.processes import attempt_folder
from services.training.ports import AttemptKey, LogRecord
from services.training.supervisor.log_format import (
    ENTRY_BYTES,
    Entry,
    index_path,
    rank_path,
    unpack,
)

__all__ = ["FileLogs"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAUSE = 0.1


class FileLogs:
    """`ports.Logs` on the files below the folder of all jobs.

    Args:
        root: Folder of all jobs' files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def read(self, key: AttemptKey, start: int, limit: int) -> Sequence[LogRecord]:
        """Lines from a position on; fewer than `limit` at the end of what is written."""
        return await asyncio.to_thread(self._read, key, start, limit)

    async def grown(self, key: AttemptKey, beyond: int) -> None:
        """Wait until there are more than `beyond` lines."""
        index = index_path(attempt_folder(self._root, key).logs)
        # Files cannot be awaited; looking at a size is cheap and happens only while one is
        # followed.
        while _size(index) <= beyond * ENTRY_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)

    def _read(self, key: AttemptKey, start: int, limit: int) -> list[LogRecord]:
        folder = attempt_folder(self._root, key).logs
        try:
            with index_path(folder).open("rb") as index:
                index.seek(start * ENTRY_BYTES)
                data = index.read(limit * ENTRY_BYTES)
        except FileNotFoundError:
            return []
        entries = unpack(data[: len(data) - len(data) % ENTRY_BYTES])
        texts = _texts(folder, entries)
        return [
            LogRecord(
                start + number,
                entry.rank,
                _EPOCH + timedelta(microseconds=entry.written_at_us),
                text,
            )
            for number, (entry, text) in enumerate(zip(entries, texts, strict=True))
        ]


def _texts(folder: Path, entries: Sequence[Entry]) -> list[str]:
    files = {rank: rank_path(folder, rank).open("rb") for rank in {one.rank for one in entries}}
    try:
        texts = []
        for entry in entries:
            file = files[entry.rank]
            file.seek(entry.offset)
            texts.append(_shown(file.read(entry.length)))
        return texts
    finally:
        for file in files.values():
            file.close()


def _shown(line: bytes) -> str:
    """What a terminal would show: of text that was written over, the last writing."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    return text.rpartition("\r")[2]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
