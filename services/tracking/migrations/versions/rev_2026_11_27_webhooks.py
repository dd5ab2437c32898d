"""Webhooks, and what is on its way to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_webhooks"
down_revision = "2026_11_26_logged_models"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", _Text, primary_key=True),
        sa.Column("name", _Text, nullable=False),
        sa.Column("url", _Text, nullable=False),
        sa.Column("events", _Text, nullable=False),
        sa.Column("description", _Text, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("sealed_secret", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("delivery_id", _Text, primary_key=True),
        sa.Column("webhook_id", _Text, nullable=False),
        sa.Column("body", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Index("ix_webhook_deliveries_due", "due_at", "delivery_id"),
        sa.Index("ix_webhook_deliveries_of", "webhook_id"),
        sqlite_with_rowid=False,
    )
