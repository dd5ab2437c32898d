"""Records of answers that have begun, so that a kill of the process amid one leaves its row.

Each is a file of its own until its answer has ended, to which is added what becomes known: one
serialised message behind another is both of them merged. What is there when the spool is opened was
cut short.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from services.inference.capture.frames import frame_header, split_frames

__all__ = ["BegunRecords"]

_log = logging.getLogger(__name__)
_SUFFIX: Final = ".begun"


class BegunRecords:
    """The files of one spool. Not for several threads.

    Args:
        directory: Where they lie; made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[str, int] = {}

    def left(self) -> dict[str, bytes]:
        """The records that a former process left, by name; what it had half written is removed."""
        found: dict[str, bytes] = {}
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            data = path.read_bytes()
            records, _ = split_frames(data, len(data))
            if records:
                found[path.stem] = b"".join(records)
                self._sizes[path.stem] = len(data)
            else:
                _log.warning("%s was not whole: nothing of its answer had left", path.name)
                path.unlink()
        return found

    def put(self, name: str, record: bytes) -> int:
        """Keep a record under a name that is no other's; returns its bytes on disk.

        Raises:
            OSError: It could not be written; nothing is kept.
        """
        path = self._path(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            file = os.open(path, flags, 0o600)
        try:
            size = _write(file, record)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        self._sizes[name] = size
        return size

    def add(self, name: str, more: bytes) -> int:
        """Merge fields into a record that is kept; returns the bytes that they take on disk.

        Raises:
            OSError: They could not be written; the record is as it was.
        """
        if name not in self._sizes:
            return 0
        file = os.open(self._path(name), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            size = _write(file, more)
        except OSError:
            os.ftruncate(file, self._sizes[name])
            raise
        finally:
            os.close(file)
        self._sizes[name] += size
        return size

    def drop(self, name: str) -> int:
        """Forget a record; returns the bytes that it took, 0 when there is none."""
        size = self._sizes.pop(name, 0)
        if size:
            self._path(name).unlink(missing_ok=True)
        return size

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"


def _write(file: int, record: bytes) -> int:
    header = frame_header(record)
    size = len(header) + len(record)
    if os.writev(file, (header, record)) != size:
        raise OSError("no room for a whole record")
    return size
