"""Since when a member has surely been the only one at work on its partitions."""

from __future__ import annotations

import time

__all__ = ["Continuity"]


class Continuity:
    """A member's unbroken time, for handlers that remember what they did.

    It ends when partitions are gained, as their last owner may have worked on them until now, and
    when the process stood still so long that the group may have given them to another one, which
    this process would not know yet. So whoever works must call `beat` in between.

    Args:
        longest_silence: Seconds without a beat after which it is broken; less than the group waits
            for a silent member, by more than the time between two heartbeats.
    """

    def __init__(self, longest_silence: float) -> None:
        self._longest_silence = longest_silence
        self._beat = time.monotonic()
        self._breaks = 0

    @property
    def breaks(self) -> int:
        """How often it was broken so far."""
        return self._breaks

    def beat(self) -> None:
        """The process runs."""
        now = time.monotonic()
        if now - self._beat > self._longest_silence:
            self._breaks += 1
        self._beat = now

    def end(self) -> None:
        """Others may have been at work until now."""
        self._breaks += 1
        self._beat = time.monotonic()
