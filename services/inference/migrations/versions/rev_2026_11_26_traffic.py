"""Traffic rules of configurations beside the shares."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_traffic"
down_revision = "2026_11_26_history"


def upgrade() -> None:
    op.add_column(
        "endpoint_config", sa.Column("traffic", sa.Text, nullable=False, server_default="{}")
    )


def downgrade() -> None:
    op.drop_column("endpoint_config", "traffic")
