"""Traces with what is said of them, evaluation data sets, and scorers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_traces"
down_revision = "2026_11_26_point_log"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    _traces()
    _evaluation()
    op.create_table(
        "scorers",
        _experiment_id(),
        sa.Column("name", _Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("scorer_id", _Text, nullable=False),
        sa.Column("serialized", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _experiment_id(**options: Any) -> sa.Column[str]:
    options = options or {"primary_key": True}
    return sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), **options)


def _traces() -> None:
    op.create_table(
        "traces",
        sa.Column("trace_id", _Text, primary_key=True),
        _experiment_id(nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("duration", sa.BigInteger, nullable=True),
        sa.Column("state", _Text, nullable=False),
        sa.Column("client_request_id", _Text, nullable=True),
        sa.Column("request_preview", _Text, nullable=True),
        sa.Column("response_preview", _Text, nullable=True),
        sa.Column("finalized", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_traces_requested", "traces", ["experiment_id", "requested_at", "trace_id"])
    for name in ("trace_tags", "trace_metadata"):
        _of_trace(
            name,
            sa.Column("key", _Text, primary_key=True),
            sa.Column("value", _Text, nullable=False),
        )
    _of_trace(
        "trace_links",
        sa.Column("kind", _Text, primary_key=True),
        sa.Column("value", _Text, primary_key=True),
    )
    op.create_index("ix_trace_links_value", "trace_links", ["kind", "value", "trace_id"])
    _of_trace(
        "assessments",
        sa.Column("assessment_id", _Text, primary_key=True),
        sa.Column("kind", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("text", _Text, nullable=True),
        sa.Column("number", sa.Double, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("document", _Text, nullable=False),
    )


def _of_trace(name: str, *columns: sa.Column[Any]) -> None:
    own = sa.Column("trace_id", _Text, sa.ForeignKey("traces.trace_id"), primary_key=True)
    op.create_table(name, own, *columns, sqlite_with_rowid=False)


def _evaluation() -> None:
    op.create_table(
        "evaluation_datasets",
        sa.Column("dataset_id", _Text, primary_key=True),
        sa.Column("name", _Text, nullable=False),
        sa.Column("digest", _Text, nullable=False),
        sa.Column("schema", _Text, nullable=True),
        sa.Column("created_by", _Text, nullable=True),
        sa.Column("updated_by", _Text, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("owner", _Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_evaluation_datasets_created", "evaluation_datasets", ["created_at", "dataset_id"]
    )
    _of_dataset(
        "evaluation_tags",
        sa.Column("key", _Text, primary_key=True),
        sa.Column("value", _Text, nullable=False),
    )
    _of_dataset("evaluation_experiments", _experiment_id())
    op.create_index("ix_evaluation_experiments", "evaluation_experiments", ["experiment_id"])
    _of_dataset(
        "evaluation_records",
        sa.Column("record_id", _Text, primary_key=True),
        sa.Column("input_hash", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("document", _Text, nullable=False),
    )
    op.create_index(
        "ix_evaluation_records_inputs",
        "evaluation_records",
        ["dataset_id", "input_hash"],
        unique=True,
    )
    op.create_index(
        "ix_evaluation_records_created",
        "evaluation_records",
        ["dataset_id", "created_at", "record_id"],
    )


def _of_dataset(name: str, *columns: sa.Column[Any]) -> None:
    own = sa.Column(
        "dataset_id", _Text, sa.ForeignKey("evaluation_datasets.dataset_id"), primary_key=True
    )
    op.create_table(name, own, *columns, sqlite_with_rowid=False)


def downgrade() -> None:
    for name in (
        "scorers",
        "evaluation_records",
        "evaluation_experiments",
        "evaluation_tags",
        "evaluation_datasets",
        "assessments",
        "trace_links",
        "trace_metadata",
        "trace_tags",
        "traces",
    ):
        op.drop_table(name)
