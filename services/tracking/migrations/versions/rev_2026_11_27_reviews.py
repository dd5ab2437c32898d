"""Questions about traces, queues of traces to look at, and issues found in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_reviews"
down_revision = "2026_11_27_given_up"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("kind", _Text, primary_key=True),
        sa.Column("id", _Text, primary_key=True),
        sa.Column(
            "experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False
        ),
        sa.Column("name_key", _Text, nullable=False),
        sa.Column("body", _Text, nullable=False),
        sa.UniqueConstraint("experiment_id", "kind", "name_key", name="uq_reviews_name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "review_items",
        sa.Column("queue_id", _Text, primary_key=True),
        sa.Column("item_id", _Text, primary_key=True),
        sa.Column("status", _Text, nullable=False),
        sa.Column("completed_by", _Text, nullable=True),
        sa.Column("completed_at", sa.BigInteger, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Index("ix_review_items_item", "item_id"),
        sqlite_with_rowid=False,
    )
