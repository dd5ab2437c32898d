"""The memory of this process."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["give_back_memory", "keep_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_IN_HEAP: Final = 32 << 20


def give_back_memory() -> None:
    """Give freed memory back to the system; glibc keeps it, for what comes next, unless asked.

    For work that takes far more than what follows it. It takes milliseconds: call it in a thread.
    Without glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_memory(size: int) -> None:
    """Keep up to so many freed bytes for what comes next, blocks of up to 32 MiB among them.

    For work that takes and frees large blocks again and again: glibc gives those back to the system
    at once, and each page of the next one costs a fault. See mallopt(3). Without glibc nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        mallopt(_TRIM_THRESHOLD, size)
