"""Endpoints, their configurations, the places of inference tables, and the bus tables."""

import sqlalchemy as sa
from alembic import op

from tessera_kit.store import bus_tables_v1

revision = "2026_11_23_first"
down_revision = None


def upgrade() -> None:
    bus_tables_v1.create()
    op.create_table(
        "endpoint",
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
        sa.UniqueConstraint("created_by", "request_id", name="uq_endpoint_request"),
    )
    op.create_table(
        "endpoint_config",
        sa.Column(
            "endpoint_id",
            sa.String(36),
            sa.ForeignKey("endpoint.endpoint_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("entities", sa.Text, nullable=False),
    )
    op.create_table(
        "inference_table",
        sa.Column("endpoint", sa.String(128), primary_key=True),
        sa.Column("full_name", sa.String(512), nullable=False),
        sa.Column("database_name", sa.String(255), nullable=False),
        sa.Column("table_name", sa.String(255), nullable=False),
    )


def downgrade() -> None:
    for name in ("inference_table", "endpoint_config", "endpoint"):
        op.drop_table(name)
    bus_tables_v1.drop()
