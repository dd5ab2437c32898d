"""How many requests of one served entity run at once, and how many wait for their turn."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Final

from services.inference.errors import EntityBusy

__all__ = ["Gate"]

_SMOOTHING: Final = 0.1
_SHORTEST_RETRY: Final = 0.01


class Gate:
    """Lets in so many at once, keeps so many waiting in order, and refuses the others.

    Args:
        entity: The served entity's name, for errors.
        most: Most that are inside.
        queue: Most that wait.
    """

    __slots__ = ("_entity", "_inside", "_mean_seconds", "_most", "_queue", "_waiting")

    def __init__(self, entity: str, most: int, queue: int) -> None:
        self._entity = entity
        self._most = most
        self._queue = queue
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait or is refused."""
        return self._inside >= self._most

    async def enter(self, timeout: float) -> float:
        """Return when it is the caller's turn; `leave` has to follow.

        Args:
            timeout: Seconds that the caller has.

        Returns:
            When the caller came in, for `leave`.

        Raises:
            EntityBusy: As many wait as may.
            TimeoutError: The turn did not come in time.
        """
        if self._inside < self._most:
            self._inside += 1
            return perf_counter()
        if len(self._waiting) >= self._queue:
            wait = self._mean_seconds * (len(self._waiting) + 1) / self._most
            raise EntityBusy(
                f"served entity {self._entity!r} has {self._inside} requests at once and "
                f"{len(self._waiting)} waiting, as many as it may",
                retry_after=max(wait, _SHORTEST_RETRY),
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                # The turn came in the moment in which the caller went away.
                self._pass_on()
            else:
                self._waiting.remove(turn)
            raise
        return perf_counter()

    def leave(self, entered: float) -> None:
        """Let the next one in."""
        self._mean_seconds += _SMOOTHING * (perf_counter() - entered - self._mean_seconds)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._inside -= 1
