"""Injectable time, so that nothing that depends on it has to be tested by waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never steps back."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never steps back."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move.

    Args:
        start: Its first `now()`; aware. The monotonic reading starts at 0.
    """

    def __init__(self, start: datetime = datetime(2013, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock's time must be aware")
        self._start = start.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Seconds that `advance` was told so far."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move both readings forward.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError("a clock does not step back")
        self._elapsed += seconds
