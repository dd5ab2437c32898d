"""The canary of an endpoint."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_canary"
down_revision = "2026_11_26_traffic"


def upgrade() -> None:
    op.add_column("endpoint", sa.Column("canary", sa.Text, nullable=True))


def downgrade() -> None:
    op.drop_column("endpoint", "canary")
