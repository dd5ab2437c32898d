"""Which served entity a caller's key belongs to: the same every time, in every process.

Weighted rendezvous hashing (Wang & Ravishankar, "Using name-based mappings to increase hit rates",
1998; weights after Schindelhauer & Schomaker, "Weighted distributed hash tables", 2005): each
entity draws a number from the key and its own name, and the smallest draw over its weight wins.
When an entity's share grows, keys move only to it; when it shrinks, only from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Final

__all__ = ["StickyChooser"]

_STEPS: Final = float(1 << 64)


class StickyChooser:
    """Chooses by key.

    Args:
        names: The entities' names; a renamed one is another.
        weights: Their shares, at least one above 0.

    Raises:
        ValueError: No weight is above 0.
    """

    __slots__ = ("_drawing",)

    def __init__(self, names: Sequence[str], weights: Sequence[int]) -> None:
        self._drawing = tuple(
            (index, blake2b(name.encode(), digest_size=8), weight)
            for index, (name, weight) in enumerate(zip(names, weights, strict=True))
            if weight > 0
        )
        if not self._drawing:
            raise ValueError("no weight is above 0")

    def choose(self, key: bytes) -> int:
        """Index of the key's entity."""
        best, chosen = float("inf"), 0
        for index, seeded, weight in self._drawing:
            digest = seeded.copy()
            digest.update(key)
            # In (0, 1]: an exponential draw of rate `weight`.
            uniform = (int.from_bytes(digest.digest(), "little") + 1) / _STEPS
            draw = -log(uniform) / weight
            if draw < best:
                best, chosen = draw, index
        return chosen
