"""Tables of inference's own database."""

from __future__ import annotations

import sqlalchemy as sa

from tessera_kit.bus.tables import outbox_tables

__all__ = [
    "CONFIG",
    "ENDPOINT",
    "INFERENCE_TABLE",
    "METADATA",
    "PAYLOAD_TABLE",
    "RATE_WINDOW",
    "REPLACEMENT",
    "REPLACEMENT_FOLLOWER",
]

METADATA = sa.MetaData()
outbox_tables(METADATA)

ENDPOINT = sa.Table(
    "endpoint",
    METADATA,
    sa.Column("endpoint_id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("table_prefix", sa.String(128), nullable=False),
    sa.Column("table_full_name", sa.String(512), nullable=False),
    sa.Column("table_database", sa.String(255), nullable=False),
    sa.Column("table_name", sa.String(255), nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("request_id", sa.String(64), nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("config_version", sa.BigInteger, nullable=True),
    sa.Column("pending_version", sa.BigInteger, nullable=True),
    sa.Column("last_config_version", sa.BigInteger, nullable=False),
    sa.Column("update_state", sa.String(32), nullable=False),
    sa.Column("update_message", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("canary", sa.Text, nullable=True),
    sa.UniqueConstraint("created_by", "request_id", name="uq_endpoint_request"),
)

CONFIG = sa.Table(
    "endpoint_config",
    METADATA,
    sa.Column(
        "endpoint_id",
        sa.String(36),
        sa.ForeignKey("endpoint.endpoint_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("entities", sa.Text, nullable=False),
    sa.Column("rollback_of", sa.BigInteger, nullable=False),
    sa.Column("traffic", sa.Text, nullable=False),
    sa.Column("ready_at", sa.BigInteger, nullable=True),
)

INFERENCE_TABLE = sa.Table(
    "inference_table",
    METADATA,
    sa.Column("endpoint", sa.String(128), primary_key=True),
    sa.Column("full_name", sa.String(512), nullable=False),
    sa.Column("database_name", sa.String(255), nullable=False),
    sa.Column("table_name", sa.String(255), nullable=False),
)


PAYLOAD_TABLE = sa.Table(
    "payload_table",
    METADATA,
    sa.Column("endpoint_id", sa.String(36), primary_key=True),
    sa.Column("endpoint", sa.String(128), nullable=False),
    sa.Column("full_name", sa.String(512), nullable=False),
    sa.Column("database_name", sa.String(255), nullable=False),
    sa.Column("table_name", sa.String(255), nullable=False),
    sa.Column("retention_days", sa.BigInteger, nullable=False),
)


RATE_WINDOW = sa.Table(
    "rate_window",
    METADATA,
    sa.Column("endpoint_id", sa.String(36), primary_key=True),
    sa.Column("budget", sa.String(255), primary_key=True),
    sa.Column("started_at", sa.BigInteger, primary_key=True),
    sa.Column("taken", sa.BigInteger, nullable=False),
)

REPLACEMENT = sa.Table(
    "replacement",
    METADATA,
    sa.Column("place", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("process", sa.String(64), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
REPLACEMENT_FOLLOWER = sa.Table(
    "replacement_follower",
    METADATA,
    sa.Column("process", sa.String(64), primary_key=True),
    sa.Column("is_drained", sa.Boolean, nullable=False),
)
