"""Wakes those who follow an endpoint when it changes."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

__all__ = ["Changes"]


class Changes:
    """A bell per endpoint, within this process."""

    def __init__(self) -> None:
        # Kept by those who listen, so that names nobody follows leave nothing.
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def ring(self, name: str) -> None:
        """Wake everybody who waits for a change of the endpoint."""
        bell = self._bells.pop(name, None)
        if bell is not None:
            bell.set()

    def bell(self, name: str) -> asyncio.Event:
        """Rings at the endpoint's next change; taken before a look at it, none is missed."""
        return self._bells.setdefault(name, asyncio.Event())
