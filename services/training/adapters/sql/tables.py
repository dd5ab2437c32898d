"""The tables as the code expects them; migrations make them. Times are Unix microseconds, UTC."""

from __future__ import annotations

import sqlalchemy as sa

from tessera_kit.bus.tables import outbox_tables

__all__ = ["CHECKPOINT_FILE", "CHORE", "FIRING", "JOB", "METADATA", "TRIGGER"]

METADATA = sa.MetaData()
outbox_tables(METADATA)

JOB = sa.Table(
    "job",
    METADATA,
    sa.Column("job_id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("submitted_by", sa.String(128), nullable=False),
    sa.Column("request_id", sa.String(64), nullable=True),
    sa.Column("trigger_name", sa.String(128), nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    # The contract's messages, whose format stays readable over versions.
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
    sa.Index("ix_job_state", "state"),
    sa.Index("ix_job_name", "name"),
    sa.Index("ix_job_trigger_name", "trigger_name"),
)
"""One row per job; `revision` is compared and raised with every change."""

CHECKPOINT_FILE = sa.Table(
    "checkpoint_file",
    METADATA,
    sa.Column("job_id", sa.String(36), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
"""Uploaded files of checkpoints, complete or not; the job's row says which one is complete."""

TRIGGER = sa.Table(
    "trigger",
    METADATA,
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
    sa.Index("ix_trigger_subject", "subject"),
)

FIRING = sa.Table(
    "firing",
    METADATA,
    sa.Column("trigger_name", sa.String(128), primary_key=True),
    sa.Column("event_id", sa.String(128), primary_key=True),
    sa.Column("observed_at", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=True),
    sa.Column("settled_at", sa.BigInteger, nullable=True),
    sa.Column("job_id", sa.String(36), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
)
"""What became of each event for each trigger that it concerned; open while `outcome` is null."""

CHORE = sa.Table(
    "chore",
    METADATA,
    sa.Column("chore_id", sa.String(320), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(128), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Index("ix_chore_due_at", "due_at"),
)
"""Effects in other systems that stored changes still owe."""
