"""Drops uploads in parts that nobody ends: their parts take room that no listing shows."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from services.tracking.ports.artifacts import ArtifactStore
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError

__all__ = ["UploadSweep"]

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 1000
_PAUSE_SECONDS: Final = 900.0


class UploadSweep:
    """Looks every 15 minutes, and drops 1,000 uploads at most each time.

    Any number of processes may: dropping what is gone does nothing.

    Args:
        files: Where uploads are.
        clock: Where time comes from.
        age: How old an upload is when it is dropped; URLs of its parts live 12 hours.
    """

    def __init__(self, files: ArtifactStore, clock: Clock, age: timedelta) -> None:
        self._files = files
        self._clock = clock
        self._age = age

    async def run(self) -> None:
        """Sweep until cancelled; outages of the object store are waited out."""
        while True:
            try:
                await self.step()
            except TesseraError as error:
                _log.warning("uploads that nobody ends: trying again: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def step(self) -> int:
        """Drop what is too old; return how many uploads that were."""
        dropped = await self._files.sweep_uploads(self._clock.now() - self._age, limit=_AT_ONCE)
        if dropped:
            _log.info("dropped %d uploads that nobody ended within %s", dropped, self._age)
        return dropped
