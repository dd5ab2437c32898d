"""Wakes those who follow an endpoint when it changes."""

from __future__ import annotations

import asyncio
from collections import defaultdict

__all__ = ["Changes"]


class Changes:
    """A bell per endpoint, within this process."""

    def __init__(self) -> None:
        self._bells: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def ring(self, name: str) -> None:
        """Wake everybody who waits for a change of the endpoint."""
        bell = self._bells.pop(name, None)
        if bell is not None:
            bell.set()

    async def wait(self, name: str, seconds: float) -> None:
        """Return at the next change, or after some time, as another process may have made one."""
        try:
            async with asyncio.timeout(seconds):
                await self._bells[name].wait()
        except TimeoutError:
            return
