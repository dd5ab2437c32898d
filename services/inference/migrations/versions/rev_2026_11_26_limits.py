"""Windows of rate limits, for all gateways together."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_limits"
down_revision = "2026_11_26_canary"


def upgrade() -> None:
    op.create_table(
        "rate_window",
        sa.Column("endpoint_id", sa.String(36), primary_key=True),
        sa.Column("budget", sa.String(255), primary_key=True),
        sa.Column("started_at", sa.BigInteger, primary_key=True),
        sa.Column("taken", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("rate_window")
