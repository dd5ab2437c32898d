"""Jobs, checkpoint files, triggers with their firings, chores, and the bus tables."""

import sqlalchemy as sa
from alembic import op

from tessera_kit.store import bus_tables_v1

revision = "2026_11_23_first"
down_revision = None


def upgrade() -> None:
    bus_tables_v1.create()
    op.create_table(
        "job",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("submitted_by", sa.String(128), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("trigger_name", sa.String(128), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("progress", sa.LargeBinary, nullable=True),
        sa.Column("checkpoint", sa.Text, nullable=True),
        sa.Column("attempts", sa.Text, nullable=False),
        sa.Column("output_model_version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.Column("deadline_at", sa.BigInteger, nullable=True),
        sa.Column("retry_at", sa.BigInteger, nullable=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("submitted_by", "request_id", name="uq_job_request"),
    )
    op.create_index("ix_job_state", "job", ["state"])
    op.create_index("ix_job_name", "job", ["name"])
    op.create_index("ix_job_trigger_name", "job", ["trigger_name"])
    op.create_table(
        "checkpoint_file",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
    )
    op.create_table(
        "trigger",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("job", sa.LargeBinary, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("cool_down_us", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("last_job_id", sa.String(36), nullable=False),
        sa.Column("last_submitted_at", sa.BigInteger, nullable=True),
        sa.UniqueConstraint("created_by", "request_id", name="uq_trigger_request"),
    )
    op.create_index("ix_trigger_subject", "trigger", ["subject"])
    op.create_table(
        "firing",
        sa.Column("trigger_name", sa.String(128), primary_key=True),
        sa.Column("event_id", sa.String(128), primary_key=True),
        sa.Column("observed_at", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("settled_at", sa.BigInteger, nullable=True),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
    )
    op.create_table(
        "chore",
        sa.Column("chore_id", sa.String(320), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
    )
    op.create_index("ix_chore_due_at", "chore", ["due_at"])


def downgrade() -> None:
    for table in ("chore", "firing", "trigger", "checkpoint_file", "job"):
        op.drop_table(table)
    bus_tables_v1.drop()
