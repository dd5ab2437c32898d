"""Which process replaces the runtime, and which wait for that."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_27_replacement"
down_revision = "2026_11_27_retention"


def upgrade() -> None:
    op.create_table(
        "replacement",
        sa.Column("place", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("process", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "replacement_follower",
        sa.Column("process", sa.String(64), primary_key=True),
        sa.Column("is_drained", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("replacement_follower")
    op.drop_table("replacement")
