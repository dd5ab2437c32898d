"""Points of metrics straight into SQLite: a whole transaction in one trip to its thread.

Most calls log points and nothing else. Statement by statement, SQLAlchemy's machinery and the trips
between threads cost several times what SQLite itself takes for them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

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
    added: list[tuple[sa.Table, Sequence[str], list[tuple[Any, ...]], str]] = [
        (LATEST_METRICS, LATEST_COLUMNS, latest_rows(wanted, numbers), KEEP_NEWER),
        (POINT_LOG, LOG_COLUMNS, log_rows(wanted, numbers), ""),
    ]
    for table, columns, rows, suffix in added:
        for statement, values in insert_statements(_SQLITE, table, columns, rows, suffix=suffix):
            connection.execute(statement, values)
    return stages
