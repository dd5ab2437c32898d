"""Points of metrics: new ones into the log, what is known of each metric, and reading them back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.log import unpacked
from services.tracking.adapters.sql.tables import POINT_LOG, RUNS
from services.tracking.domain.metrics import Point, identity
from services.tracking.domain.points import Points
from services.tracking.ports.store import PointArchive

__all__ = ["KEEP_NEWER", "LATEST_COLUMNS", "SqlMetrics", "latest_rows", "point_of"]

_NEWER = (
    "(excluded.step, excluded.timestamp, -excluded.is_nan, excluded.value) > "
    "(latest_metrics.step, latest_metrics.timestamp, -latest_metrics.is_nan, latest_metrics.value)"
)
_LATEST = ("step", "timestamp", "is_nan", "value")
LATEST_COLUMNS = ("key", "run_no", *_LATEST, "min_value", "max_value")
KEEP_NEWER = (
    "ON CONFLICT (key, run_no) DO UPDATE SET "
    + ", ".join(
        f"{column} = CASE WHEN {_NEWER} THEN excluded.{column} ELSE latest_metrics.{column} END"
        for column in _LATEST
    )
    + "".join(
        f", {column} = CASE WHEN latest_metrics.{column} {less} excluded.{column} "
        f"THEN latest_metrics.{column} "
        f"ELSE coalesce(excluded.{column}, latest_metrics.{column}) END"
        for column, less in (("min_value", "<"), ("max_value", ">"))
    )
)


class SqlMetrics:
    """The metric store through a session.

    Args:
        session: The transaction.
        archive: Where points are that are not in the log any more.
    """

    def __init__(self, session: AsyncSession, archive: PointArchive) -> None:
        self._session = session
        self._archive = archive

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """Return points of a metric by step, time and value."""
        # The log first: a point leaves it only when the archive has it.
        logged = await self._logged(run_id, key)
        kept = await self._archive.history(run_id, key, after=after, limit=limit)
        found = {identity(point): point for point in _first(logged, after, limit)}
        found.update((identity(point), point) for point in kept)
        return [found[place] for place in sorted(found)[:limit]]

    async def _logged(self, run_id: str, key: str) -> Points:
        """Return a metric's points that are in the log."""
        rows = (
            sa.select(POINT_LOG.c["keys"], POINT_LOG.c.data)
            .join(RUNS, RUNS.c.run_no == POINT_LOG.c.run_no)
            .where(RUNS.c.run_id == run_id)
        )
        blocks = [unpacked(*row).of_key(key) for row in await self._session.execute(rows)]
        return Points.joined(blocks)


def _first(points: Points, after: Point | None, limit: int) -> list[Point]:
    """Return the first different points of one metric that come after a point."""
    ordered = points.ordered()
    start = 0 if after is None else int(np.searchsorted(ordered.steps, after.step))
    found: dict[tuple[int, int, bool, float], Point] = {}
    for point in ordered.since(start):
        place = identity(point)
        if after is None or place > identity(after):
            found[place] = point
            if len(found) == limit:
                break
    return list(found.values())


def latest_rows(points: Mapping[str, Points], numbers: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """Return the rows of LATEST_COLUMNS for the metrics of some points.

    Args:
        points: Points, by run id.
        numbers: Numbers of the runs, by run id.
    """
    rows = [
        (
            summary.latest.key,
            numbers[run_id],
            summary.latest.step,
            summary.latest.timestamp,
            *_stored(summary.latest.value),
            _number(summary.minimum),
            _number(summary.maximum),
        )
        for run_id, added in points.items()
        for summary in added.summaries()
    ]
    # One order for all writers.
    rows.sort(key=lambda row: row[:2])
    return rows


def _stored(value: float) -> tuple[int, float]:
    return (0, value) if value == value else (1, 0.0)


def _number(value: float) -> float | None:
    return value if value == value else None


def point_of(key: str, step: int, timestamp: int, is_nan: int, value: float) -> Point:
    """Return the point of stored columns."""
    return Point(key, step, timestamp, math.nan if is_nan else value)
