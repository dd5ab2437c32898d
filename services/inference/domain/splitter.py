"""Which served entity gets the next request: exact shares, evenly spread, the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd

__all__ = ["TrafficSplitter", "cycle"]


class TrafficSplitter:
    """Smooth weighted round robin, computed once and then read in a circle.

    In any run of `sum(weights) / gcd(weights)` requests each entity gets exactly its share.

    Args:
        weights: Shares of the entities, at least one above 0.

    Raises:
        ValueError: A weight is negative, or none is above 0.
    """

    __slots__ = ("_at", "_cycle", "_length")

    def __init__(self, weights: Sequence[int]) -> None:
        self._cycle = cycle(weights)
        self._length = len(self._cycle)
        self._at = 0

    def next(self) -> int:
        """Index of the entity that gets this request."""
        at = self._at
        self._at = at + 1 if at + 1 < self._length else 0
        return self._cycle[at]


def cycle(weights: Sequence[int]) -> tuple[int, ...]:
    """The order in which indexes take turns.

    After each step every index has had its share of the steps so far, to within one.

    Raises:
        ValueError: A weight is negative, or none is above 0.
    """
    if any(weight < 0 for weight in weights):
        raise ValueError("a weight is negative")
    divisor = reduce(gcd, weights, 0)
    if divisor == 0:
        raise ValueError("no weight is above 0")
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    credit = [0] * len(shares)
    order = []
    for _ in range(total):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        chosen = max(range(len(shares)), key=lambda index: (credit[index], -index))
        credit[chosen] -= total
        order.append(chosen)
    return tuple(order)
