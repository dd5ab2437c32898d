"""Listings of reviews are read in pages: by their creation, which gets a column and indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_27_review_pages"
down_revision = "2026_11_27_reviews"

_CREATED = {
    "sqlite": "json_extract(body, '$.created_at')",
    "postgresql": "CAST(CAST(body AS json) ->> 'created_at' AS bigint)",
}


def upgrade() -> None:
    op.add_column(
        "reviews", sa.Column("created_at", sa.BigInteger, nullable=False, server_default="0")
    )
    created = _CREATED[op.get_bind().dialect.name]
    op.execute(f"UPDATE reviews SET created_at = {created}")  # noqa: S608 - a constant
    op.create_index("ix_reviews_made", "reviews", ["experiment_id", "kind", "created_at", "id"])
    op.create_index("ix_review_items_made", "review_items", ["queue_id", "created_at", "item_id"])
