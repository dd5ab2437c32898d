"""Points of metrics, and which of them is the latest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from services.tracking.domain.lifecycle import Micros

__all__ = ["MAX_STEP", "Extremes", "Point", "identity", "latest_points", "rank"]

MAX_STEP = 2**63 - 1


class Point(NamedTuple):
    """One point of a metric. A run's points are a set: the same point twice is one point."""

    key: str
    """The metric's name."""
    step: int
    """The step, signed 64 bits."""
    timestamp: Micros
    """When it was measured."""
    value: float
    """The value; NaN and infinities are allowed."""


class Extremes(NamedTuple):
    """The ends of the values of a metric that are numbers."""

    minimum: float
    """The smallest."""
    maximum: float
    """The greatest."""


def rank(point: Point) -> tuple[int, Micros, bool, float]:
    """Return what orders the points of one metric: step, then time, then value; NaN is lowest."""
    value = point.value
    is_number = value == value
    return point.step, point.timestamp, is_number, value if is_number else 0.0


def identity(point: Point) -> tuple[int, Micros, bool, float]:
    """Return what makes a point of a metric this one, in the order of histories: NaN is last."""
    value = point.value
    is_nan = value != value
    return point.step, point.timestamp, is_nan, 0.0 if is_nan else value


def latest_points(points: Iterable[Point]) -> dict[str, Point]:
    """Return the latest point of each metric, by its name."""
    latest: dict[str, Point] = {}
    for point in points:
        known = latest.get(point.key)
        # Most points of a batch differ in step, so the full ranks are rarely compared.
        if (
            known is None
            or point.step > known.step
            or (point.step == known.step and rank(point) > rank(known))
        ):
            latest[point.key] = point
    return latest
