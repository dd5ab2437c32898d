"""The bus tables as a service's first migration makes them.

Frozen: a change to the tables is a new module, `bus_tables_v2`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["create", "drop"]


def create() -> None:
    """Make `outbox` and `inbox`; call it from a migration's `upgrade`."""
    op.create_table(
        "outbox",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("topic", sa.String(249), nullable=False),
        sa.Column("record_key", sa.LargeBinary, nullable=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "inbox",
        sa.Column("consumer_group", sa.String(128), primary_key=True),
        sa.Column("event_id", sa.String(128), primary_key=True),
        sa.Column("handled_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_inbox_handled_at", "inbox", ["handled_at"])


def drop() -> None:
    """Undo `create`; call it from a migration's `downgrade`."""
    op.drop_table("inbox")
    op.drop_table("outbox")
