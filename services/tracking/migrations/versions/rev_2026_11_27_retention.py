"""What was deleted knows since when, and purges are noted until all that it kept is removed.

When runs were deleted before is not known, and nobody who deleted was told of an end then: all of
that counts as deleted now, so that its whole retention lies ahead.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_retention"
down_revision = "2026_11_27_review_pages"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    deleted = sa.text("deleted_at IS NOT NULL")
    for name in ("experiments", "runs", "logged_models"):
        op.add_column(name, sa.Column("deleted_at", sa.BigInteger, nullable=True))
        table = sa.table(name, sa.column("stage"), sa.column("deleted_at"))
        now = time.time_ns() // 1000
        op.execute(sa.update(table).where(table.c.stage == "deleted").values(deleted_at=now))
        op.create_index(
            f"ix_{name}_deleted",
            name,
            ["deleted_at"],
            sqlite_where=deleted,
            postgresql_where=deleted,
        )
    op.create_table(
        "purges",
        sa.Column("kind", _Text, primary_key=True),
        sa.Column("id", _Text, primary_key=True),
        sa.Column("experiment_id", _Text, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("is_late", sa.Boolean, nullable=False),
        sa.Index("ix_purges_due", "due_at", "kind", "id"),
        sqlite_with_rowid=False,
    )
    # A run that is removed is unlinked from models and traces.
    op.create_index("ix_run_models_model", "run_models", ["model_id"])
