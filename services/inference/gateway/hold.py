"""Keeps requests waiting while the runtime is replaced, instead of letting them fail."""

from __future__ import annotations

import asyncio
from time import perf_counter

__all__ = ["RuntimeHold"]


class RuntimeHold:
    """Open unless the runtime is about to be replaced; those who wait count as in flight."""

    def __init__(self) -> None:
        self.is_closed = False
        """Whether nothing may be asked of the runtime now."""
        self._opened = asyncio.Event()
        self._opened.set()

    def close(self) -> None:
        """Let nobody through from now on; who is through already stays so."""
        self.is_closed = True
        self._opened.clear()

    def open(self) -> None:
        """Let everybody through."""
        self.is_closed = False
        self._opened.set()

    async def wait(self, timeout: float) -> float:
        """Return when it is open, with the seconds that are left of `timeout`.

        Raises:
            TimeoutError: It was not in time.
        """
        began = perf_counter()
        async with asyncio.timeout(timeout):
            await self._opened.wait()
        return max(timeout - (perf_counter() - began), 0.001)
