"""The memory of this process."""

from __future__ import annotations

import ctypes

__all__ = ["give_back_memory"]


def give_back_memory() -> None:
    """Give freed memory back to the system; glibc keeps it, for what comes next, unless asked.

    For work that takes far more than what follows it. It takes milliseconds: call it in a thread.
    Without glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
