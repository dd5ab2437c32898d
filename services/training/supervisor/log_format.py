"""How logs lie on disk: the text of each process in a file, and an index of all lines in order.

`rank-<n>.log` holds what process n wrote, byte for byte. `index` holds one fixed-size entry per
line of the whole attempt, in the order of arrival, so that any line is found by its number. Text is
written before its entry: what the index names is there.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

__all__ = ["ENTRY_BYTES", "Entry", "index_path", "pack", "rank_path", "unpack"]

_STRUCT = struct.Struct("<qIIQ")
ENTRY_BYTES = _STRUCT.size
"""Bytes of one index entry: 24."""


class Entry(NamedTuple):
    """One line."""

    written_at_us: int
    """Unix microseconds of its arrival."""
    rank: int
    length: int
    """Bytes of its text, line end left out."""
    offset: int
    """Where its text begins in its process's file."""


def pack(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return _STRUCT.pack(*entry)


def unpack(data: bytes) -> list[Entry]:
    """The entries of a whole number of entries' bytes."""
    return [Entry(*fields) for fields in _STRUCT.iter_unpack(data)]


def index_path(folder: Path) -> Path:
    """The index of an attempt's log folder."""
    return folder / "index"


def rank_path(folder: Path, rank: int) -> Path:
    """The file of one process."""
    return folder / f"rank-{rank}.log"
