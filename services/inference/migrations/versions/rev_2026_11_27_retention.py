"""How long each payload table keeps its rows, those of deleted endpoints too."""

import json

import sqlalchemy as sa
from alembic import op

revision = "2026_11_27_retention"
down_revision = "2026_11_26_tables"


def upgrade() -> None:
    op.add_column(
        "payload_table",
        sa.Column("retention_days", sa.BigInteger, nullable=False, server_default="0"),
    )
    connection = op.get_bind()
    change = sa.text("UPDATE payload_table SET retention_days = :days WHERE endpoint_id = :id")
    for row in connection.execute(sa.text("SELECT endpoint_id, settings FROM endpoint")).all():
        if days := json.loads(row.settings).get("retention_days", 0):
            connection.execute(change, {"days": days, "id": row.endpoint_id})


def downgrade() -> None:
    op.drop_column("payload_table", "retention_days")
