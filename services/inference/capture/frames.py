"""How a record lies in a spool segment: length and CRC-32 in 8 bytes, then its bytes.

A segment's file may be an older one's, written again from its start. So the CRC begins with a seed
that is the segment's own, and behind the newest record lies `END`: what an older segment left there
is not taken for a record.

The CRC is zlib's, by ISA-L: for a record of 2 MB that is 0.06 ms instead of 0.5 to 1.2.
"""

from __future__ import annotations

import struct
from typing import Final

from isal.isal_zlib import crc32

__all__ = ["END", "HEADER_BYTES", "LARGEST_RECORD", "frame_bytes", "frame_header", "split_frames"]

_header = struct.Struct("<II")
HEADER_BYTES: Final = _header.size
END: Final = bytes(HEADER_BYTES)
"""Lies where the next record's header will."""
LARGEST_RECORD: Final = 64 << 20
"""Bytes of a record; a longer length in a header is taken for damage."""


def frame_header(*parts: bytes, seed: int = 0) -> bytes:
    """The 8 bytes before a record, which may be in parts.

    Args:
        parts: The record's.
        seed: What its CRC begins with, as `split_frames` is told.

    Raises:
        ValueError: It is empty or too large.
    """
    length, checksum = 0, seed
    for part in parts:
        length += len(part)
        checksum = crc32(part, checksum)
    if not 0 < length <= LARGEST_RECORD:
        raise ValueError(f"a record of {length} bytes; 1 to {LARGEST_RECORD} fit")
    return _header.pack(length, checksum)


def frame_bytes(data: bytes) -> int:
    """Bytes of the frame that begins here, whether or not all of it is here; 0 when none does."""
    if len(data) < HEADER_BYTES:
        return 0
    length: int = _header.unpack_from(data)[0]
    return HEADER_BYTES + length if 0 < length <= LARGEST_RECORD else 0


def split_frames(data: bytes, limit: int, seed: int = 0) -> tuple[list[bytes], int]:
    """The whole, undamaged records at the start of `data`, at most `limit`, and where they end.

    What follows them is the end, a torn or damaged frame, or the next one.
    """
    records: list[bytes] = []
    position, end = 0, len(data)
    while len(records) < limit and position + HEADER_BYTES <= end:
        length, checksum = _header.unpack_from(data, position)
        start = position + HEADER_BYTES
        if not 0 < length <= LARGEST_RECORD or start + length > end:
            break
        record = data[start : start + length]
        if crc32(record, seed) != checksum:
            break
        records.append(record)
        position = start + length
    return records, position
