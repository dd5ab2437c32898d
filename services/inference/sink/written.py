"""What of a batch may be in its table already; of most rows the sink itself can tell."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from tessera_kit.bus.continuity import Continuity

__all__ = ["WrittenIds"]

_SKEW_MS: Final = 10_000
"""How far the clocks of those who make ids and of the sink may be apart."""
_MOST_IDS: Final = 20_000


class WrittenIds:
    """The newest ids that this sink wrote, and from which id on it knows all that were written.

    Ids of version 7 begin with the time of their making and sort by it. One that was made after
    this sink became the only one at work on its partitions, and that it did not write itself, has
    no row: nobody else could have written it. Whatever else an id is (older, of a clock that is
    ahead, no UUID at all), the table must be asked.

    Args:
        continuity: Since when the sink is alone.
        most: How many ids are remembered.
    """

    def __init__(self, continuity: Continuity, most: int = _MOST_IDS) -> None:
        self._continuity = continuity
        self._most = most
        self._ids: dict[str, None] = {}
        self._breaks = -1
        self._floor = ""
        """The greatest id that may have been written and is not remembered."""

    def unsure(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that may have a row."""
        self._continuity.beat()
        if self._breaks != self._continuity.breaks:
            self._breaks = self._continuity.breaks
            self._ids.clear()
            self._floor = max(self._floor, _least_id(_SKEW_MS))
        floor, ceiling, known = self._floor, _least_id(_SKEW_MS), self._ids
        return [one for one in ids if not floor < one < ceiling or one in known]

    def add(self, ids: Iterable[str]) -> None:
        """These have rows now, or may have."""
        self._ids.update(dict.fromkeys(ids))
        excess = len(self._ids) - self._most
        if excess > 0:
            oldest = list(self._ids)[:excess]
            self._floor = max(self._floor, *oldest)
            for one in oldest:
                del self._ids[one]


def _least_id(ahead_ms: int) -> str:
    """The text before all ids that are made from so many milliseconds after now on."""
    time_ms = time.time_ns() // 1_000_000 + ahead_ms
    text = f"{time_ms:012x}"
    return f"{text[:8]}-{text[8:]}-"
