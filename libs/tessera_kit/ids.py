"""Identifiers: UUIDv7 (RFC 9562), so that keys sort by the time of their making, and etags."""

from __future__ import annotations

import random
import secrets
import threading
import time
import uuid

__all__ = ["id_time_ms", "new_etag", "new_id"]

_lock = threading.Lock()
_last_tick = 0


def new_id() -> str:
    """A new UUIDv7 as 36 lower-case characters with dashes.

    Ids of one process strictly increase, also across a clock that steps back; ids of different
    processes sort by the millisecond of their making. 62 bits are random, though no secret: whoever
    sees many ids of a process can tell those that follow.
    """
    global _last_tick
    # A tick is 1/4096 ms: 48 bits of milliseconds and 12 of fraction (RFC 9562, 6.2, method 3).
    tick = (time.time_ns() << 12) // 1_000_000
    with _lock:
        if tick <= _last_tick:
            tick = _last_tick + 1
        _last_tick = tick
    time_half = ((tick >> 12) << 16) | 0x7000 | (tick & 0xFFF)
    random_half = 1 << 63 | random.getrandbits(62)  # a forked process gets a seed of its own
    text = f"{time_half:016x}{random_half:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_time_ms(identifier: str) -> int:
    """Unix milliseconds of an id's making.

    Raises:
        ValueError: The text is not a UUIDv7.
    """
    value = uuid.UUID(identifier)
    if value.version != 7:
        raise ValueError(f"{identifier!r} is not a UUIDv7")
    return value.int >> 80


def new_etag() -> str:
    """A new opaque etag: 22 URL-safe characters, 128 random bits."""
    return secrets.token_urlsafe(16)
