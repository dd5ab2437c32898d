"""Figures, and how several of them become one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    group: str
    """What it belongs to: gateway, table, bus, stack."""
    name: str
    value: float
    unit: str
    peer: float | None = None
    """The same of what it is compared with, measured in the same rounds."""
    peer_name: str = ""
    higher_is_better: bool = True
    note: str = ""
    calibration: float | None = None
    """The same of something known, which tells what this machine makes of it."""
    calibration_name: str = ""

    @property
    def ratio(self) -> float | None:
        """The value as a share of the peer's."""
        return self.value / self.peer if self.peer else None

    @property
    def calibration_ratio(self) -> float | None:
        """The calibration as a share of the peer's."""
        return self.calibration / self.peer if self.calibration and self.peer else None

    def as_json(self) -> dict[str, Any]:
        """The figure with its ratios."""
        return {
            **asdict(self),
            "ratio": self.ratio,
            "calibration_ratio": self.calibration_ratio,
        }


@dataclass(slots=True)
class Report:
    """What the benchmarks found, and where."""

    surroundings: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """Every window and sample behind the figures, by group."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each group took."""

    def as_json(self) -> dict[str, Any]:
        """What `.tessera/bench.json` holds."""
        return {
            "surroundings": self.surroundings,
            "figures": [figure.as_json() for figure in self.figures],
            "details": self.details,
            "seconds": self.seconds,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed; NaN where there is none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(share * len(ordered) + 0.999_999) - 1))]


def median(values: Sequence[float]) -> float:
    """The median; NaN where there is none."""
    return statistics.median(values) if values else float("nan")
