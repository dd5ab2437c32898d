"""What webhooks did not take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_given_up"
down_revision = "2026_11_27_webhooks"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "webhook_given_up",
        sa.Column("delivery_id", _Text, primary_key=True),
        sa.Column("webhook_id", _Text, nullable=False),
        sa.Column("body", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("given_up_at", sa.BigInteger, nullable=False),
        sa.Column("reason", _Text, nullable=False),
        sa.Index("ix_webhook_given_up_of", "webhook_id", "given_up_at", "delivery_id"),
        sa.Index("ix_webhook_given_up_at", "given_up_at", "delivery_id"),
        sqlite_with_rowid=False,
    )
