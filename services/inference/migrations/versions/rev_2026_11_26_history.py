"""Settings of endpoints; of configurations, when each began to answer and which it repeats."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_history"
down_revision = "2026_11_23_first"


def upgrade() -> None:
    op.add_column("endpoint", sa.Column("settings", sa.Text, nullable=False, server_default="{}"))
    op.add_column(
        "endpoint_config",
        sa.Column("rollback_of", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.add_column("endpoint_config", sa.Column("ready_at", sa.BigInteger, nullable=True))
    # What answers now has done so since it was made, as far as is known.
    op.execute(
        "UPDATE endpoint_config SET ready_at = created_at WHERE EXISTS (SELECT 1 FROM endpoint "
        "WHERE endpoint.endpoint_id = endpoint_config.endpoint_id "
        "AND endpoint.config_version = endpoint_config.version)"
    )


def downgrade() -> None:
    op.drop_column("endpoint_config", "ready_at")
    op.drop_column("endpoint_config", "rollback_of")
    op.drop_column("endpoint", "settings")
