"""A log of points that are on their way to ClickHouse, in place of a row per point; extremes."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_point_log"
down_revision = "2026_11_23_initial"

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_POINT = struct.Struct("<qqqd")
_AT_ONCE = 10_000


def upgrade() -> None:
    op.add_column("latest_metrics", sa.Column("min_value", sa.Double, nullable=True))
    op.add_column("latest_metrics", sa.Column("max_value", sa.Double, nullable=True))
    op.create_table(
        "point_log",
        sa.Column("log_no", _Number, primary_key=True, autoincrement=True),
        sa.Column("run_no", sa.BigInteger, sa.ForeignKey("runs.run_no"), nullable=False),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Index("ix_point_log_run", "run_no"),
    )
    _move()
    op.drop_table("metric_points")


def _move() -> None:
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "UPDATE latest_metrics SET "
            "min_value = (SELECT min(value) FROM metric_points AS p "
            "WHERE p.metric_no = latest_metrics.metric_no AND p.is_nan = 0), "
            "max_value = (SELECT max(value) FROM metric_points AS p "
            "WHERE p.metric_no = latest_metrics.metric_no AND p.is_nan = 0)"
        )
    )
    metrics = connection.execute(
        sa.text("SELECT run_no, metric_no FROM latest_metrics ORDER BY run_no, metric_no")
    ).all()
    points = sa.text(
        "SELECT step, timestamp, is_nan, value FROM metric_points WHERE metric_no = :metric_no"
    )
    for run_no, metric_no in metrics:
        rows = connection.execute(points, {"metric_no": metric_no})
        for _, part in groupby(enumerate(rows), key=lambda pair: pair[0] // _AT_ONCE):
            _log(connection, run_no, metric_no, (row for _, row in part))


def _log(connection: sa.Connection, run_no: int, metric_no: int, rows: Iterable[Any]) -> None:
    packed = [
        _POINT.pack(metric_no, step, timestamp, math.nan if is_nan else value)
        for step, timestamp, is_nan, value in rows
    ]
    connection.execute(
        sa.text("INSERT INTO point_log (run_no, points, data) VALUES (:run_no, :points, :data)"),
        {"run_no": run_no, "points": len(packed), "data": b"".join(packed)},
    )


def downgrade() -> None:
    raise NotImplementedError("points that went to ClickHouse do not come back")
