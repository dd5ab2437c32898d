"""Points of metrics straight into SQLite: a whole transaction in one trip to its thread.

Most calls log points and nothing else. Statement by statement, SQLAlchemy's machinery and the trips
between threads cost several times what SQLite itself takes for them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from services.tracking.adapters.sql.bulk import in_blocks, insert_statements
from services.tracking.adapters.sql.log import LOG_COLUMNS, log_rows
from services.tracking.adapters.sql.metrics import KEEP_NEWER, LATEST_COLUMNS, latest_rows
from services.tracking.adapters.sql.tables import LATEST_METRICS, POINT_LOG
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.points import Points

__all__ = ["append_points"]

_SQLITE = "sqlite"


def append_points(
    connection: sqlite3.Connection, points: Mapping[str, Points]
) -> dict[str, LifecycleStage]:
    """Store points of the runs that are active, in one transaction; return the runs' stages.

    Runs in the connection's thread.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        stages = _append(connection, points)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return stages


def _append(
    connection: sqlite3.Connection, points: Mapping[str, Points]
) -> dict[str, LifecycleStage]:
    numbers: dict[str, int] = {}
    stages: dict[str, LifecycleStage] = {}
    for block in in_blocks(list(points)):
        marks = ", ".join("?" * len(block))
        rows = connection.execute(
            f"SELECT run_id, run_no, stage FROM runs WHERE run_id IN ({marks})",  # noqa: S608
            tuple(block),
        ).fetchall()
        for run_id, run_no, stage in rows:
            numbers[run_id], stages[run_id] = run_no, LifecycleStage(stage)
    wanted = {
        run_id: added
        for run_id, added in points.items()
        if stages.get(run_id) is LifecycleStage.ACTIVE
    }
    metrics: list[Any] = []
    latest = latest_rows(wanted, numbers)
    for statement, values in insert_statements(
        _SQLITE, LATEST_METRICS, LATEST_COLUMNS, latest, suffix=KEEP_NEWER
    ):
        metrics += connection.execute(statement, values).fetchall()
    rows = log_rows(wanted, numbers, metrics)
    for statement, values in insert_statements(_SQLITE, POINT_LOG, LOG_COLUMNS, rows, suffix=""):
        connection.execute(statement, values)
    return stages
