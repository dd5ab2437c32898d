"""Wakes whoever waits for a change."""

from __future__ import annotations

import asyncio

__all__ = ["Signal"]


class Signal:
    """Something that changes now and then.

    Take a `turn` first, look at what there is, then wait for that turn: a change in between is not
    missed.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def turn(self) -> asyncio.Event:
        """Set with the next change."""
        return self._event

    def notify(self) -> None:
        """Tell of a change."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    @staticmethod
    async def wait(turn: asyncio.Event, seconds: float) -> bool:
        """Return when the turn's change came, or after some seconds; whether it came."""
        try:
            async with asyncio.timeout(seconds):
                await turn.wait()
        except TimeoutError:
            return False
        return True
