"""How much two conditions of traces go together: normalized pointwise mutual information.

Source: G. Bouma, "Normalized (pointwise) mutual information in collocation extraction", 2009.
Undefined cases and the smoothing are MLflow's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["CorrelationCounts", "npmi", "smoothed_npmi"]

_JEFFREYS: Final = 0.5
"""What the prior of Jeffreys adds to each cell of the table."""


@dataclass(frozen=True, slots=True)
class CorrelationCounts:
    """How many traces meet each of two conditions."""

    total: int
    """All that are looked at."""
    first: int
    second: int
    both: int

    @property
    def cells(self) -> tuple[int, int, int, int]:
        """The table of two by two: both, the first alone, the second alone, neither."""
        neither = self.total - self.first - self.second + self.both
        return self.both, self.first - self.both, self.second - self.both, neither

    @property
    def is_defined(self) -> bool:
        """Whether a correlation can be told: each condition is met, and the counts agree."""
        met = self.total > 0 and self.first > 0 and self.second > 0
        return met and min(self.cells) >= 0


def npmi(counts: CorrelationCounts) -> float:
    """Return -1 (never together) to 1 (always together); NaN where nothing can be told."""
    if not counts.is_defined:
        return math.nan
    return -1.0 if counts.both == 0 else _npmi(counts, 0.0)


def smoothed_npmi(counts: CorrelationCounts) -> float:
    """As `npmi`, with half a trace more in each cell, so that few traces claim less."""
    return _npmi(counts, _JEFFREYS) if counts.is_defined else math.nan


def _npmi(counts: CorrelationCounts, smoothing: float) -> float:
    if counts.both == counts.total:
        return 1.0
    both, first, second, neither = (cell + smoothing for cell in counts.cells)
    total = both + first + second + neither
    expected = math.log(both + first) + math.log(both + second)
    information = math.log(both) + math.log(total) - expected
    surprise = math.log(total) - math.log(both)
    return max(-1.0, min(1.0, information / surprise))
