"""The table of every endpoint by its id, those of deleted ones too."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_tables"
down_revision = "2026_11_26_limits"


def upgrade() -> None:
    op.create_table(
        "payload_table",
        sa.Column("endpoint_id", sa.String(36), primary_key=True),
        sa.Column("endpoint", sa.String(128), nullable=False),
        sa.Column("full_name", sa.String(512), nullable=False),
        sa.Column("database_name", sa.String(255), nullable=False),
        sa.Column("table_name", sa.String(255), nullable=False),
    )
    op.execute(
        "INSERT INTO payload_table (endpoint_id, endpoint, full_name, database_name, table_name) "
        "SELECT endpoint_id, name, table_full_name, table_database, table_name FROM endpoint"
    )


def downgrade() -> None:
    op.drop_table("payload_table")
