"""Models that runs log, their links to runs, and what is told of runs' data sets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_logged_models"
down_revision = "2026_11_26_metric_search"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "logged_models",
        sa.Column("model_id", _Text, primary_key=True),
        sa.Column(
            "experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False
        ),
        sa.Column("stage", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Index("ix_logged_models_created", "experiment_id", "stage", "created_at", "model_id"),
    )
    op.create_table(
        "run_models",
        sa.Column("run_id", _Text, primary_key=True),
        sa.Column("model_id", _Text, primary_key=True),
        sa.Column("is_output", sa.Boolean, primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_datasets",
        sa.Column("run_id", _Text, primary_key=True),
        sa.Column("name", _Text, primary_key=True),
        sa.Column("digest", _Text, primary_key=True),
        sa.Column("context", _Text, primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
