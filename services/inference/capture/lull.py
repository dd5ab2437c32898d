"""Large records wait for a pause in the requests before they are brought away.

Bus, store and table are often on the gateway's machine, and a record of megabytes costs them more
than its request cost gateway and model. Amid a burst each would delay the next request; the spool
holds the burst meanwhile. Small records do not wait: a lull may never come.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from services.inference.capture.reader import SpoolReader
from tessera_kit.clock import Clock

__all__ = ["Lull"]

_LARGEST_BURST: Final = 512 << 20
"""What waits at most: as many bytes of files as the spool keeps to be written again."""


class Lull:
    """Tells when large records are brought away: while nothing is appended, or for their age.

    No faster way to them is lost by the wait: while requests come, a spool that fills at hundreds
    of megabytes a second is not emptied as fast by anybody.

    Args:
        reader: Of the spool, which the gateway appends to.
        clock: Tells how old records are.
        spool_bytes: Most that the spool holds; a quarter of it waits at most.
        quiet_seconds: How long nothing was appended, for a pause.
        longest_seconds: Age from which on a record does not wait.
    """

    def __init__(
        self,
        reader: SpoolReader,
        clock: Clock,
        spool_bytes: int,
        *,
        quiet_seconds: float = 0.03,
        longest_seconds: float = 1.0,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._most_bytes = min(_LARGEST_BURST, spool_bytes // 4)
        self._quiet_seconds = quiet_seconds
        self._longest_seconds = longest_seconds

    async def wait(self, since: datetime) -> None:
        """Return when a record of that time may be brought away."""
        age = max(0.0, (self._clock.now() - since).total_seconds())
        end = self._clock.monotonic() + self._longest_seconds - age
        # No signal passes between gateway and shipper.
        while self._clock.monotonic() < end and not self._is_there():  # noqa: ASYNC110
            await asyncio.sleep(self._quiet_seconds)

    def _is_there(self) -> bool:
        quiet = self._clock.now().timestamp() - self._reader.appended_at()
        return quiet >= self._quiet_seconds or self._reader.file_bytes() > self._most_bytes
