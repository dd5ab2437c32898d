"""Experiments, runs with what is logged to them, points of metrics, and the bus tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tessera_kit.store import bus_tables_v1

revision = "2026_11_23_initial"
down_revision = None

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _experiments()
    _runs()
    _metrics()
    op.create_table(
        "requests",
        sa.Column("principal", _Text, primary_key=True),
        sa.Column("method", _Text, primary_key=True),
        sa.Column("request_id", _Text, primary_key=True),
        sa.Column("resource_id", _Text, nullable=False),
        sqlite_with_rowid=False,
    )
    bus_tables_v1.create()


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("experiment_id", _Text, primary_key=True),
        sa.Column("name", _Text, nullable=False, unique=True),
        sa.Column("artifact_location", _Text, nullable=False),
        sa.Column("stage", _Text, nullable=False),
        sa.Column("created_by", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("etag", _Text, nullable=False),
    )
    op.create_index(
        "ix_experiments_created", "experiments", ["stage", "created_at", "experiment_id"]
    )
    op.create_table(
        "experiment_tags",
        sa.Column(
            "experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), primary_key=True
        ),
        sa.Column("key", _Text, primary_key=True),
        sa.Column("value", _Text, nullable=False),
        sqlite_with_rowid=False,
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_no", _Number, primary_key=True, autoincrement=True),
        sa.Column("run_id", _Text, nullable=False, unique=True),
        sa.Column(
            "experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False
        ),
        sa.Column("name", _Text, nullable=False),
        sa.Column("status", _Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.Column("artifact_location", _Text, nullable=False),
        sa.Column("stage", _Text, nullable=False),
        sa.Column("deleted_with_experiment", sa.Boolean, nullable=False),
        sa.Column("created_by", _Text, nullable=False),
        sa.Column("etag", _Text, nullable=False),
    )
    op.create_index("ix_runs_started", "runs", ["experiment_id", "stage", "started_at", "run_id"])
    for name in ("run_params", "run_tags"):
        op.create_table(
            name,
            _run_no(),
            sa.Column("key", _Text, primary_key=True),
            sa.Column("value", _Text, nullable=False),
            sqlite_with_rowid=False,
        )
    op.create_table(
        "run_inputs",
        _run_no(),
        sa.Column("name", _Text, primary_key=True),
        sa.Column("digest", _Text, primary_key=True),
        sa.Column("context", _Text, primary_key=True),
        sqlite_with_rowid=False,
    )


def _run_no() -> sa.Column[int]:
    return sa.Column("run_no", sa.BigInteger, sa.ForeignKey("runs.run_no"), primary_key=True)


def _metrics() -> None:
    op.create_table(
        "latest_metrics",
        sa.Column("metric_no", _Number, primary_key=True, autoincrement=True),
        sa.Column("run_no", sa.BigInteger, sa.ForeignKey("runs.run_no"), nullable=False),
        sa.Column("key", _Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("is_nan", sa.SmallInteger, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.UniqueConstraint("run_no", "key"),
    )
    op.create_table(
        "metric_points",
        sa.Column("metric_no", sa.BigInteger, primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sa.Column("timestamp", sa.BigInteger, primary_key=True),
        sa.Column("is_nan", sa.SmallInteger, primary_key=True),
        sa.Column("value", sa.Double, primary_key=True),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    bus_tables_v1.drop()
    for name in (
        "requests",
        "metric_points",
        "latest_metrics",
        "run_inputs",
        "run_tags",
        "run_params",
        "runs",
        "experiment_tags",
        "experiments",
    ):
        op.drop_table(name)
