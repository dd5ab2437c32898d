"""Many points as columns: what a call costs per point must be a few machine words, not objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from services.tracking.domain.metrics import Point

__all__ = ["Floats", "Integers", "Points", "Summary"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Summary(NamedTuple):
    """What is kept of a metric's points for searching."""

    latest: Point
    """The one of the greatest step, then time, then value; NaN is the lowest value."""
    minimum: float
    """The smallest value that is a number; NaN when none is."""
    maximum: float
    """The greatest value that is a number; NaN when none is."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of any number of metrics of one run, in any order, repetitions allowed."""

    keys: tuple[str, ...]
    """Names of the metrics."""
    numbers: Integers
    """For each point the place of its name in `keys`; shape (n,)."""
    steps: Integers
    """The steps; shape (n,)."""
    timestamps: Integers
    """When they were measured, microseconds since 1970; shape (n,)."""
    values: Floats
    """The values; shape (n,)."""

    @classmethod
    def of(cls, points: Iterable[Point]) -> Self:
        """Return points as columns."""
        places: dict[str, int] = {}
        columns = list(zip(*points, strict=True))
        if not columns:
            return cls((), *_empty())
        names, steps, timestamps, values = columns
        numbers = [places.setdefault(name, len(places)) for name in names]
        return cls(
            tuple(places),
            np.array(numbers, np.int64),
            np.array(steps, np.int64),
            np.array(timestamps, np.int64),
            np.array(values, np.float64),
        )

    @classmethod
    def of_series(cls, series: Sequence[tuple[str, Integers, Integers, Floats]]) -> Self:
        """Return the points of metrics whose steps, times and values are columns already."""
        places: dict[str, int] = {}
        numbers = [places.setdefault(name, len(places)) for name, *_ in series]
        if not series:
            return cls((), *_empty())
        return cls(
            tuple(places),
            np.repeat(np.array(numbers, np.int64), [len(one[1]) for one in series]),
            np.concatenate([one[1] for one in series]),
            np.concatenate([one[2] for one in series]),
            np.concatenate([one[3] for one in series]),
        )

    @classmethod
    def joined(cls, blocks: Sequence[Self]) -> Self:
        """Return the points of several blocks as one."""
        if len(blocks) == 1:
            return blocks[0]
        places: dict[str, int] = {}
        numbers: list[Integers] = [np.empty(0, np.int64)]
        for block in blocks:
            here = [places.setdefault(name, len(places)) for name in block.keys]
            numbers.append(np.array(here, np.int64)[block.numbers])
        return cls(
            tuple(places),
            np.concatenate(numbers),
            np.concatenate([_NO_INTEGERS, *(block.steps for block in blocks)]),
            np.concatenate([_NO_INTEGERS, *(block.timestamps for block in blocks)]),
            np.concatenate([_NO_FLOATS, *(block.values for block in blocks)]),
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Point]:
        columns = (self.numbers, self.steps, self.timestamps, self.values)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return (Point(self.keys[number], *rest) for number, *rest in rows)

    def of_key(self, key: str) -> Self:
        """Return the points of one metric."""
        if key not in self.keys:
            return type(self)((), *_empty())
        own = self if len(self.keys) == 1 else self._at(self.numbers == self.keys.index(key))
        return replace(own, keys=(key,), numbers=np.zeros(len(own), np.int64))

    def ordered(self) -> Self:
        """Return the points of one metric in the order of histories."""
        is_nan = np.isnan(self.values)
        ranked = np.where(is_nan, 0.0, self.values)
        return self._at(np.lexsort((ranked, is_nan, self.timestamps, self.steps)))

    def since(self, start: int) -> Iterator[Point]:
        """Yield the points from a place on, made as they are asked for."""
        for at in range(start, len(self), _AT_ONCE):
            yield from self._at(slice(at, at + _AT_ONCE))

    def _at(self, places: Any) -> Self:
        return replace(
            self,
            numbers=self.numbers[places],
            steps=self.steps[places],
            timestamps=self.timestamps[places],
            values=self.values[places],
        )

    def summaries(self) -> list[Summary]:
        """Return a summary per metric that has a point, by name."""
        if not len(self):
            return []
        if len(self) == 1:
            # As most calls have it: columns of one cost thirty times what the point does.
            [point] = self
            return [Summary(point, point.value, point.value)]
        is_number = ~np.isnan(self.values)
        ranked = np.where(is_number, self.values, 0.0)
        order = np.lexsort((ranked, is_number, self.timestamps, self.steps, self.numbers))
        numbers = self.numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        last = order[np.append(starts[1:], len(order)) - 1]
        values = self.values[order]
        rows = zip(
            numbers[starts].tolist(),
            self.steps[last].tolist(),
            self.timestamps[last].tolist(),
            self.values[last].tolist(),
            np.fmin.reduceat(values, starts).tolist(),
            np.fmax.reduceat(values, starts).tolist(),
            strict=True,
        )
        found = [
            Summary(Point(self.keys[number], step, timestamp, value), least, greatest)
            for number, step, timestamp, value, least, greatest in rows
        ]
        found.sort(key=lambda one: one.latest.key)
        return found


_AT_ONCE = 1000
_NO_INTEGERS: Integers = np.empty(0, np.int64)
_NO_FLOATS: Floats = np.empty(0, np.float64)


def _empty() -> tuple[Any, ...]:
    return _NO_INTEGERS, _NO_INTEGERS, _NO_INTEGERS, _NO_FLOATS
