"""The two tables that tie a service's database to the bus.

A service adds them to its own metadata with `outbox_tables`; its first migration makes them with
`tessera_kit.store.bus_tables_v1.create`, which is frozen while these follow the code.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["INBOX", "OUTBOX", "outbox_tables"]

_metadata = sa.MetaData()

# SQLite counts up by itself only for the exact type INTEGER.
_Position = sa.BigInteger().with_variant(sa.Integer, "sqlite")

OUTBOX = sa.Table(
    "outbox",
    _metadata,
    sa.Column("position", _Position, primary_key=True, autoincrement=True),
    sa.Column("topic", sa.String(249), nullable=False),
    sa.Column("record_key", sa.LargeBinary, nullable=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
"""Events of committed transactions that the broker has not acknowledged, in order of `position`."""

INBOX = sa.Table(
    "inbox",
    _metadata,
    sa.Column("consumer_group", sa.String(128), primary_key=True),
    sa.Column("event_id", sa.String(128), primary_key=True),
    sa.Column("handled_at", sa.BigInteger, nullable=False, index=True),
)
"""Events whose effect is in the same database; `handled_at` is in Unix seconds."""


def outbox_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Add OUTBOX and INBOX to a service's metadata and return them."""
    return OUTBOX.to_metadata(metadata), INBOX.to_metadata(metadata)
