"""Metric curves in few bytes: columns of 16-bit numbers between a column's least and greatest.

A column of steps, times or values becomes `[index, low, scale, logarithmic]`: the base64 text of
its numbers stands once in a pool, as runs log many metrics at the same steps. A value is
`low + number * scale`, added in two halves as the span may be more than a number holds, or `exp` of
that for positive columns of several orders of magnitude; the error is at most `scale`. Steps that
span less than 65,533 are exact.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tessera.tracking.v1 import tracking_pb2

__all__ = ["Column", "Columns", "packed"]

Column = list[float]
"""Index in the pool, low, scale, and 1 where the logarithm of the values was taken."""

_MOST: Final = 65_532
"""The greatest number that stands for a finite value."""
_SPECIAL: Final = ((np.isneginf, 65_533), (np.isposinf, 65_534), (np.isnan, 65_535))
_ORDERS: Final = 100.0
"""From this ratio of the greatest to the least, positive values are kept by their logarithms."""


class Columns:
    """A pool of columns in which equal ones are kept once."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """The columns as base64 of little-endian 16-bit numbers."""
        return list(self._index)

    def whole(self, values: Sequence[int]) -> Column:
        """Return whole numbers as a column: exact where they span less than 65,533."""
        low = min(values)
        scale = max(1, -(-(max(values) - low) // _MOST))
        numbers = np.array([(value - low) // scale for value in values], np.uint16)
        return [self._kept(numbers), low, scale, 0]

    def real(self, values: Sequence[float]) -> Column:
        """Return values, which may be NaN or infinite, as a column."""
        array = np.array(values, np.float64)
        finite = array[np.isfinite(array)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        logarithmic = low > 0 and high / low >= _ORDERS
        if logarithmic:
            low, high = math.log(low), math.log(high)
        # A little less, so that the greatest value does not become more than a number holds.
        scale = math.nextafter(high / _MOST - low / _MOST, 0.0)
        while math.isinf(low + _MOST // 2 * scale + _MOST // 2 * scale):
            scale = math.nextafter(scale, 0.0)
        numbers = np.zeros(array.size, np.uint16)
        known = np.isfinite(array)
        if scale > 0:
            shown = np.log(array[known]) if logarithmic else array[known]
            # Halves, as the span itself may be more than a number holds.
            shares = (shown / 2 - low / 2) / scale * 2
            numbers[known] = np.clip(np.rint(shares), 0, _MOST)
        for is_such, number in _SPECIAL:
            numbers[is_such(array)] = number
        return [self._kept(numbers), low, scale, int(logarithmic)]

    def _kept(self, numbers: NDArray[np.uint16]) -> int:
        text = b64encode(numbers.astype("<u2").tobytes()).decode()
        return self._index.setdefault(text, len(self._index))


def packed(
    curves: Mapping[tuple[int, str], Sequence[tracking_pb2.MetricBucket]], columns: Columns
) -> Iterator[dict[str, Any]]:
    """Yield curves as the page reads them, by metric and run.

    Args:
        curves: Buckets by the run's place among the page's runs and the metric's name; a metric
            that has a single bucket in every run has no curve.
        columns: Where their columns are kept.
    """
    drawn = {key for (_, key), buckets in curves.items() if len(buckets) > 1}
    for (run, key), buckets in sorted(curves.items(), key=lambda one: (one[0][1], one[0][0])):
        if key not in drawn or not buckets:
            continue
        curve: dict[str, Any] = {
            "run": run,
            "key": key,
            "step": columns.whole([(one.first_step + one.last_step) // 2 for one in buckets]),
            "time": columns.whole([_middle_millis(one) for one in buckets]),
            "mean": columns.real([one.mean for one in buckets]),
            "points": sum(one.count for one in buckets),
        }
        if any(one.count - one.nan_count > 1 for one in buckets):
            curve["min"] = columns.real([one.min for one in buckets])
            curve["max"] = columns.real([one.max for one in buckets])
        yield curve


def _middle_millis(bucket: tracking_pb2.MetricBucket) -> int:
    first, last = bucket.first_at, bucket.last_at
    return ((first.seconds + last.seconds) * 1000 + (first.nanos + last.nanos) // 1_000_000) // 2
