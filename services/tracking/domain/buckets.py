"""A metric in few buckets of equal ranges of steps."""

from __future__ import annotations

from typing import NamedTuple

from services.tracking.domain.lifecycle import Micros

__all__ = ["Bucket", "Steps", "bucket_width"]

_MOST_WIDE = 2**64 - 1


class Bucket(NamedTuple):
    """What the points of a metric have in a range of steps; NaN where no value is a number."""

    first_step: int
    """The least step of a point in it."""
    last_step: int
    """The greatest step of a point in it."""
    first_at: Micros
    """When its first point was measured."""
    last_at: Micros
    """When its last point was measured."""
    points: int
    """Number of points."""
    nan_count: int
    """How many of them are NaN, and left out of what follows."""
    minimum: float
    """The smallest value."""
    maximum: float
    """The greatest value."""
    mean: float
    """The mean of the values."""


class Steps(NamedTuple):
    """A range of steps, both ends included; None for the metric's own end."""

    first: int | None = None
    last: int | None = None


def bucket_width(first: int, last: int, count: int) -> int:
    """Return how many steps wide buckets must be so that `count` of them reach from first to last.

    Buckets begin at `first`: a step's bucket is (step - first) // width.
    """
    return min((last - first) // count + 1, _MOST_WIDE)
