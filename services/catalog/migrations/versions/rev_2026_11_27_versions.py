"""Which version of its source each lineage edge is about."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_27_versions"
down_revision = "2026_11_23_catalog"


def upgrade() -> None:
    op.add_column(
        "lineage_edges",
        sa.Column("source_version", sa.String(64), nullable=False, server_default=""),
    )


def downgrade() -> None:
    op.drop_column("lineage_edges", "source_version")
