"""Records of answers that have begun, so that a kill of the process amid one leaves its row.

Each is a file of its own until its answer has ended. What is there when the spool is opened was cut
short.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from services.inference.capture.frames import HEADER_BYTES, frame_header, split_frames

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
            records, _ = split_frames(path.read_bytes(), 1)
            if records:
                found[path.stem] = records[0]
                self._sizes[path.stem] = HEADER_BYTES + len(records[0])
            else:
                _log.warning("%s was not whole: nothing of its answer had left", path.name)
                path.unlink()
        return found

    def put(self, name: str, record: bytes) -> int:
        """Keep a record under a name that is no other's; returns its bytes on disk.

        Raises:
            OSError: It could not be written; nothing is kept.
        """
        header = frame_header(record)
        path = self._path(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            file = os.open(path, flags, 0o600)
        try:
            size = len(header) + len(record)
            if os.writev(file, (header, record)) != size:
                raise OSError("no room for a whole record")
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        self._sizes[name] = size
        return size

    def drop(self, name: str) -> int:
        """Forget a record; returns the bytes that it took, 0 when there is none."""
        size = self._sizes.pop(name, 0)
        if size:
            self._path(name).unlink(missing_ok=True)
        return size

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"
