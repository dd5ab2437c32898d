"""The columns that rows of a watched table have, and how they are read."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Column", "ColumnKind", "ColumnPlace", "RowSchema", "TimeKind", "merge_columns"]


class ColumnKind(enum.Enum):
    """How a column's values are described and compared."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


class ColumnPlace(enum.Enum):
    """Where a column's values lie."""

    TABLE = "table"
    INPUT = "input"
    OUTPUT = "output"


class TimeKind(enum.Enum):
    """How a column says a time."""

    NUMBER = "number"
    """Seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by size."""
    TEXT = "text"
    """ISO 8601, or another form that ClickHouse's best-effort parser reads; UTC unless it says."""
    TIME = "time"
    """A date or time type of the database."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column that can be watched, or that cuts rows into slices."""

    name: str
    kind: ColumnKind
    place: ColumnPlace


@dataclass(frozen=True, slots=True)
class RowSchema:
    """What is read of each row."""

    columns: tuple[Column, ...]
    """The watched columns."""
    slices: tuple[Column, ...] = ()
    """The columns that cut rows into slices."""
    timestamp: Column | None = None
    """The column that says when a row happened; None for the request's time, or no time at all."""
    time_kind: TimeKind = TimeKind.NUMBER
    """How it says so."""
    prediction: Column | None = None
    """The output that is judged."""


def merge_columns(known: Sequence[Column], found: Iterable[Column]) -> tuple[Column, ...]:
    """The known columns, then those found that are new; a known column keeps its kind."""
    names = {(column.place, column.name) for column in known}
    return (*known, *(c for c in found if (c.place, c.name) not in names))
