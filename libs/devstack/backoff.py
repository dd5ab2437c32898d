"""How long to wait before a crashed process is started again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential delays with jitter.

    A process that stayed healthy long enough starts from the first again.
    """

    def __init__(
        self,
        first: float = 0.2,
        factor: float = 2.0,
        longest: float = 30.0,
        forgive_after: float = 30.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first, self._factor, self._longest = first, factor, longest
        self._forgive_after = forgive_after
        self._jitter = jitter
        self._failures = 0

    def next_delay(self, healthy_seconds: float) -> float:
        """Seconds to wait after a life that was healthy for `healthy_seconds`.

        Between half and all of the step.
        """
        if healthy_seconds >= self._forgive_after:
            self._failures = 0
        step = min(self._longest, self._first * self._factor**self._failures)
        self._failures += 1
        return step * (0.5 + 0.5 * self._jitter())
