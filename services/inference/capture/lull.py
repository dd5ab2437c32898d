"""Large records wait for a pause in the requests before they are brought away.

Bus, store and table are often on the gateway's machine, and a record of megabytes costs them more
than its request cost gateway and model. Amid a burst each would delay the next request; the spool
holds the burst meanwhile. Small records do not wait, nor do those of requests that come now and
then: a pause may be long in coming.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC
from typing import Final

from services.inference.capture.reader import SpoolReader
from tessera.events.v1 import inference_events_pb2
from tessera_kit.clock import Clock

__all__ = ["Lull"]

_LARGEST_BURST: Final = 512 << 20
"""What waits at most: as many bytes of files as the spool keeps to be written again."""
_BUSY: Final = 0.25
"""Requests under way at a time, on average, from which on they are a burst."""


class Lull:
    """Tells when large records are brought away.

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

    async def wait(self, payloads: Sequence[inference_events_pb2.PayloadRecord]) -> None:
        """Return when records, the oldest first, may be brought away."""
        if _are_sparse(payloads):
            return
        since = payloads[0].request_time.ToDatetime(UTC)
        age = max(0.0, (self._clock.now() - since).total_seconds())
        end = self._clock.monotonic() + self._longest_seconds - age
        # No signal passes between gateway and shipper.
        while self._clock.monotonic() < end and not self._is_there():  # noqa: ASYNC110
            await asyncio.sleep(self._quiet_seconds)

    def _is_there(self) -> bool:
        quiet = self._clock.now().timestamp() - self._reader.appended_at()
        return quiet >= self._quiet_seconds or self._reader.file_bytes() > self._most_bytes


def _are_sparse(payloads: Sequence[inference_events_pb2.PayloadRecord]) -> bool:
    """Whether between the first and the last request the gateway had mostly none."""
    first, last = payloads[0].request_time, payloads[-1].request_time
    busy = sum(payload.duration_us for payload in payloads[:-1]) * 1000
    return busy < _BUSY * (last.ToNanoseconds() - first.ToNanoseconds())
