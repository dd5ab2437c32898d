"""Points of metrics in SQL: every point a row, and the latest of each metric beside its number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.bulk import insert_rows
from services.tracking.adapters.sql.tables import LATEST_METRICS, METRIC_POINTS, RUNS
from services.tracking.domain.metrics import Point, latest_points

__all__ = [
    "KEEP_FIRST",
    "KEEP_NEWER",
    "LATEST_COLUMNS",
    "POINT_COLUMNS",
    "SqlMetrics",
    "latest_rows",
    "point_of",
    "point_rows",
]

_NEWER = (
    "(excluded.step, excluded.timestamp, -excluded.is_nan, excluded.value) > "
    "(latest_metrics.step, latest_metrics.timestamp, -latest_metrics.is_nan, latest_metrics.value)"
)
LATEST_COLUMNS = ("run_no", "key", "step", "timestamp", "is_nan", "value")
# Every row is updated, if only to what it was, so that RETURNING yields all the numbers.
KEEP_NEWER = (
    "ON CONFLICT (run_no, key) DO UPDATE SET "
    + ", ".join(
        f"{column} = CASE WHEN {_NEWER} THEN excluded.{column} ELSE latest_metrics.{column} END"
        for column in LATEST_COLUMNS[2:]
    )
    + " RETURNING run_no, key, metric_no"
)
KEEP_FIRST = "ON CONFLICT DO NOTHING"
POINT_COLUMNS = ("metric_no", "step", "timestamp", "is_nan", "value")


class SqlMetrics:
    """The metric store in the transaction of a session.

    Args:
        session: The transaction.
        numbers: Numbers of the runs that the session locked, by run id.
    """

    def __init__(self, session: AsyncSession, numbers: Mapping[str, int]) -> None:
        self._session = session
        self._numbers = numbers

    async def add(self, points: Mapping[str, Sequence[Point]]) -> None:
        """Store points of locked runs and note the latest of each metric."""
        connection = await self._session.connection()
        found = await insert_rows(
            connection,
            LATEST_METRICS,
            LATEST_COLUMNS,
            latest_rows(points, self._numbers),
            suffix=KEEP_NEWER,
            fetch=True,
        )
        await insert_rows(
            connection,
            METRIC_POINTS,
            POINT_COLUMNS,
            point_rows(points, self._numbers, found),
            suffix=KEEP_FIRST,
        )

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """Return points of a metric by step, time and value."""
        points = METRIC_POINTS.c
        columns = (points.step, points.timestamp, points.is_nan, points.value)
        statement = (
            sa.select(*columns)
            .join(LATEST_METRICS, LATEST_METRICS.c.metric_no == points.metric_no)
            .join(RUNS, RUNS.c.run_no == LATEST_METRICS.c.run_no)
            .where(RUNS.c.run_id == run_id, LATEST_METRICS.c.key == key)
            .order_by(*columns)
            .limit(limit)
        )
        if after is not None:
            place = (after.step, after.timestamp, *_stored(after.value))
            statement = statement.where(
                sa.tuple_(*columns)
                > sa.tuple_(
                    *(
                        sa.bindparam(None, one, type_=column.type)
                        for one, column in zip(place, columns, strict=True)
                    )
                )
            )
        rows = await self._session.execute(statement)
        return [point_of(key, *row) for row in rows]


def latest_rows(
    points: Mapping[str, Sequence[Point]], numbers: Mapping[str, int]
) -> list[tuple[Any, ...]]:
    """Return the rows of LATEST_COLUMNS for the latest of some points.

    Args:
        points: Points, by run id.
        numbers: Numbers of the runs, by run id.
    """
    rows = [
        (numbers[run_id], key, point.step, point.timestamp, *_stored(point.value))
        for run_id, added in points.items()
        for key, point in latest_points(added).items()
    ]
    # One order for all writers.
    rows.sort(key=lambda row: row[:2])
    return rows


def point_rows(
    points: Mapping[str, Sequence[Point]],
    numbers: Mapping[str, int],
    metrics: Iterable[tuple[int, str, int]],
) -> list[tuple[Any, ...]]:
    """Return the rows of POINT_COLUMNS for points.

    Args:
        points: Points, by run id.
        numbers: Numbers of the runs, by run id.
        metrics: Run number, key and metric number of every metric that a point is of.
    """
    metric_no = {(run_no, key): number for run_no, key, number in metrics}
    rows: list[tuple[Any, ...]] = []
    for run_id, added in points.items():
        run_no = numbers[run_id]
        rows += [
            (metric_no[run_no, key], step, timestamp, *_stored(value))
            for key, step, timestamp, value in added
        ]
    return rows


def _stored(value: float) -> tuple[int, float]:
    return (0, value) if value == value else (1, 0.0)


def point_of(key: str, step: int, timestamp: int, is_nan: int, value: float) -> Point:
    """Return the point of stored columns."""
    return Point(key, step, timestamp, math.nan if is_nan else value)
