"""When the call that runs now must be done, so that the calls it makes in turn end with it."""

from __future__ import annotations

import time
from contextvars import ContextVar

__all__ = ["request_deadline", "time_remaining"]

_deadline: ContextVar[float | None] = ContextVar("tessera_deadline", default=None)


def request_deadline() -> float | None:
    """Return the end of the running call on `time.monotonic()`'s scale; None outside a call."""
    return _deadline.get()


def time_remaining() -> float | None:
    """Return the seconds left to the running call, 0 when it is late; None outside a call."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def enter_call(seconds: float) -> None:
    """Give the running task's call this many seconds from now."""
    _deadline.set(time.monotonic() + seconds)
