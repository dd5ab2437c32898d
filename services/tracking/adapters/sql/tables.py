"""The tables of tracking's database, as the newest migration leaves them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from tessera_kit.bus.tables import outbox_tables

__all__ = [
    "ASSESSMENTS",
    "EVALUATION_DATASETS",
    "EVALUATION_EXPERIMENTS",
    "EVALUATION_RECORDS",
    "EVALUATION_TAGS",
    "EXPERIMENTS",
    "EXPERIMENT_TAGS",
    "LATEST_METRICS",
    "LOGGED_MODELS",
    "METADATA",
    "POINT_LOG",
    "PURGES",
    "PURGING",
    "REQUESTS",
    "REVIEWS",
    "REVIEW_ITEMS",
    "RUNS",
    "RUN_DATASETS",
    "RUN_INPUTS",
    "RUN_MODELS",
    "RUN_PARAMS",
    "RUN_TAGS",
    "SCORERS",
    "TRACES",
    "TRACE_LINKS",
    "TRACE_METADATA",
    "TRACE_TAGS",
    "WEBHOOKS",
    "WEBHOOK_DELIVERIES",
    "WEBHOOK_GIVEN_UP",
]

METADATA = sa.MetaData()
outbox_tables(METADATA)

# Texts order by their bytes on both databases, as they do in Python.
_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
PURGING = "purging"
"""The stage of what is being removed for good: only `adapters.sql.purges` finds it."""


def _deleted(name: str) -> sa.Index:
    where = sa.text("deleted_at IS NOT NULL")
    return sa.Index(f"ix_{name}_deleted", "deleted_at", sqlite_where=where, postgresql_where=where)


# SQLite counts up by itself only for the exact type INTEGER.
_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")

EXPERIMENTS = sa.Table(
    "experiments",
    METADATA,
    sa.Column("experiment_id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False, unique=True),
    sa.Column("artifact_location", _Text, nullable=False),
    sa.Column("stage", _Text, nullable=False),
    sa.Column("created_by", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("etag", _Text, nullable=False),
    sa.Column("deleted_at", sa.BigInteger, nullable=True),
    sa.Index("ix_experiments_created", "stage", "created_at", "experiment_id"),
    _deleted("experiments"),
)

EXPERIMENT_TAGS = sa.Table(
    "experiment_tags",
    METADATA,
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), primary_key=True),
    sa.Column("key", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
    sqlite_with_rowid=False,
)

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_no", _Number, primary_key=True, autoincrement=True),
    sa.Column("run_id", _Text, nullable=False, unique=True),
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False),
    sa.Column("name", _Text, nullable=False),
    sa.Column("status", _Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger, nullable=True),
    sa.Column("artifact_location", _Text, nullable=False),
    sa.Column("stage", _Text, nullable=False),
    sa.Column("deleted_with_experiment", sa.Boolean, nullable=False),
    sa.Column("created_by", _Text, nullable=False),
    sa.Column("etag", _Text, nullable=False),
    sa.Column("deleted_at", sa.BigInteger, nullable=True),
    sa.Index("ix_runs_started", "experiment_id", "stage", "started_at", "run_id"),
    _deleted("runs"),
)
"""`run_no` joins a run to its rows: shorter than its id, and rows of one run lie together."""


def _of_run(name: str, *columns: sa.Column[str]) -> sa.Table:
    number = sa.Column("run_no", sa.BigInteger, sa.ForeignKey("runs.run_no"), primary_key=True)
    return sa.Table(name, METADATA, number, *columns, sqlite_with_rowid=False)


RUN_PARAMS = _of_run(
    "run_params",
    sa.Column("key", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
)
RUN_TAGS = _of_run(
    "run_tags",
    sa.Column("key", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
)
RUN_INPUTS = _of_run(
    "run_inputs",
    sa.Column("name", _Text, primary_key=True),
    sa.Column("digest", _Text, primary_key=True),
    sa.Column("context", _Text, primary_key=True),
)

LATEST_METRICS = sa.Table(
    "latest_metrics",
    METADATA,
    sa.Column("key", _Text, primary_key=True),
    sa.Column("run_no", sa.BigInteger, sa.ForeignKey("runs.run_no"), primary_key=True),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("is_nan", sa.SmallInteger, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("min_value", sa.Double, nullable=True),
    sa.Column("max_value", sa.Double, nullable=True),
    sa.Index("ix_latest_metrics_run", "run_no"),
    sqlite_with_rowid=False,
)
"""What is known of each metric of each run; by metric first, as searches ask for it.

`value` is the latest point's; a NaN is 0.0 with `is_nan` 1, as SQLite would store it as NULL. The
extremes are those of the points that are numbers, NULL while there is none.
"""

POINT_LOG = sa.Table(
    "point_log",
    METADATA,
    sa.Column("log_no", _Number, primary_key=True, autoincrement=True),
    sa.Column("run_no", sa.BigInteger, sa.ForeignKey("runs.run_no"), nullable=False),
    sa.Column("points", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("keys", sa.Text, nullable=False, server_default="[]"),
    sa.Index("ix_point_log_run", "run_no"),
)
"""Points that ClickHouse does not have yet, a row per run and transaction: `adapters.sql.log`."""

LOGGED_MODELS = sa.Table(
    "logged_models",
    METADATA,
    sa.Column("model_id", _Text, primary_key=True),
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False),
    sa.Column("stage", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("deleted_at", sa.BigInteger, nullable=True),
    sa.Index("ix_logged_models_created", "experiment_id", "stage", "created_at", "model_id"),
    _deleted("logged_models"),
)
"""`document` is the model as JSON: it is read and written whole."""

RUN_MODELS = sa.Table(
    "run_models",
    METADATA,
    sa.Column("run_id", _Text, primary_key=True),
    sa.Column("model_id", _Text, primary_key=True),
    sa.Column("is_output", sa.Boolean, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Index("ix_run_models_model", "model_id"),
    sqlite_with_rowid=False,
)

RUN_DATASETS = sa.Table(
    "run_datasets",
    METADATA,
    sa.Column("run_id", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("digest", _Text, primary_key=True),
    sa.Column("context", _Text, primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
)
"""What clients tell of the data sets in `run_inputs`, as JSON."""

REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("principal", _Text, primary_key=True),
    sa.Column("method", _Text, primary_key=True),
    sa.Column("request_id", _Text, primary_key=True),
    sa.Column("resource_id", _Text, nullable=False),
    sqlite_with_rowid=False,
)
"""What creations with a request id created."""

TRACES = sa.Table(
    "traces",
    METADATA,
    sa.Column("trace_id", _Text, primary_key=True),
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
    sa.Column("duration", sa.BigInteger, nullable=True),
    sa.Column("state", _Text, nullable=False),
    sa.Column("client_request_id", _Text, nullable=True),
    sa.Column("request_preview", _Text, nullable=True),
    sa.Column("response_preview", _Text, nullable=True),
    sa.Column("finalized", sa.Boolean, nullable=False),
    sa.Index("ix_traces_requested", "experiment_id", "requested_at", "trace_id"),
    sqlite_with_rowid=False,
)


def _of_trace(name: str, *columns: sa.Column[Any], **options: Any) -> sa.Table:
    own = sa.Column("trace_id", _Text, sa.ForeignKey("traces.trace_id"), primary_key=True)
    return sa.Table(name, METADATA, own, *columns, sqlite_with_rowid=False, **options)


TRACE_TAGS = _of_trace(
    "trace_tags",
    sa.Column("key", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
)
TRACE_METADATA = _of_trace(
    "trace_metadata",
    sa.Column("key", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
)
TRACE_LINKS = _of_trace(
    "trace_links",
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("value", _Text, primary_key=True),
)
"""What traces are linked to: a `run` by its id, a `prompt` as `name/version`."""
sa.Index("ix_trace_links_value", TRACE_LINKS.c.kind, TRACE_LINKS.c.value, TRACE_LINKS.c.trace_id)

ASSESSMENTS = _of_trace(
    "assessments",
    sa.Column("assessment_id", _Text, primary_key=True),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("name", _Text, nullable=False),
    sa.Column("text", _Text, nullable=True),
    sa.Column("number", sa.Double, nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("document", _Text, nullable=False),
)
"""`document` is the whole assessment as JSON; the other columns are what searches compare."""

EVALUATION_DATASETS = sa.Table(
    "evaluation_datasets",
    METADATA,
    sa.Column("dataset_id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False),
    sa.Column("digest", _Text, nullable=False),
    sa.Column("schema", _Text, nullable=True),
    sa.Column("created_by", _Text, nullable=True),
    sa.Column("updated_by", _Text, nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("owner", _Text, nullable=False),
    sa.Index("ix_evaluation_datasets_created", "created_at", "dataset_id"),
    sqlite_with_rowid=False,
)
"""Examples to evaluate on; `owner` is the principal, `created_by` what its client says."""


def _of_dataset(name: str, *columns: sa.Column[Any]) -> sa.Table:
    own = sa.Column(
        "dataset_id", _Text, sa.ForeignKey("evaluation_datasets.dataset_id"), primary_key=True
    )
    return sa.Table(name, METADATA, own, *columns, sqlite_with_rowid=False)


EVALUATION_TAGS = _of_dataset(
    "evaluation_tags",
    sa.Column("key", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
)
EVALUATION_EXPERIMENTS = _of_dataset(
    "evaluation_experiments",
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), primary_key=True),
)
sa.Index("ix_evaluation_experiments", EVALUATION_EXPERIMENTS.c.experiment_id)
EVALUATION_RECORDS = _of_dataset(
    "evaluation_records",
    sa.Column("record_id", _Text, primary_key=True),
    sa.Column("input_hash", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("document", _Text, nullable=False),
)
"""`document` is the record as JSON; records of the same inputs are one."""
sa.Index(
    "ix_evaluation_records_inputs",
    EVALUATION_RECORDS.c.dataset_id,
    EVALUATION_RECORDS.c.input_hash,
    unique=True,
)
sa.Index(
    "ix_evaluation_records_created",
    EVALUATION_RECORDS.c.dataset_id,
    EVALUATION_RECORDS.c.created_at,
    EVALUATION_RECORDS.c.record_id,
)

WEBHOOKS = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("webhook_id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False),
    sa.Column("url", _Text, nullable=False),
    sa.Column("events", _Text, nullable=False),
    sa.Column("description", _Text, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("sealed_secret", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Who is told of the registry; `events` is JSON, and secrets are encrypted."""
WEBHOOK_DELIVERIES = sa.Table(
    "webhook_deliveries",
    METADATA,
    sa.Column("delivery_id", _Text, primary_key=True),
    sa.Column("webhook_id", _Text, nullable=False),
    sa.Column("body", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Index("ix_webhook_deliveries_due", "due_at", "delivery_id"),
    sa.Index("ix_webhook_deliveries_of", "webhook_id"),
    sqlite_with_rowid=False,
)
"""What webhooks are told and have not taken yet."""
WEBHOOK_GIVEN_UP = sa.Table(
    "webhook_given_up",
    METADATA,
    sa.Column("delivery_id", _Text, primary_key=True),
    sa.Column("webhook_id", _Text, nullable=False),
    sa.Column("body", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("given_up_at", sa.BigInteger, nullable=False),
    sa.Column("reason", _Text, nullable=False),
    sa.Index("ix_webhook_given_up_of", "webhook_id", "given_up_at", "delivery_id"),
    sa.Index("ix_webhook_given_up_at", "given_up_at", "delivery_id"),
    sqlite_with_rowid=False,
)
"""What webhooks did not take, and why."""

REVIEWS = sa.Table(
    "reviews",
    METADATA,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("id", _Text, primary_key=True),
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), nullable=False),
    sa.Column("name_key", _Text, nullable=False),
    sa.Column("body", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("experiment_id", "kind", "name_key", name="uq_reviews_name"),
    sa.Index("ix_reviews_made", "experiment_id", "kind", "created_at", "id"),
    sqlite_with_rowid=False,
)
"""Questions, queues of traces and issues, each whole as JSON."""
REVIEW_ITEMS = sa.Table(
    "review_items",
    METADATA,
    sa.Column("queue_id", _Text, primary_key=True),
    sa.Column("item_id", _Text, primary_key=True),
    sa.Column("status", _Text, nullable=False),
    sa.Column("completed_by", _Text, nullable=True),
    sa.Column("completed_at", sa.BigInteger, nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_review_items_item", "item_id"),
    sa.Index("ix_review_items_made", "queue_id", "created_at", "item_id"),
    sqlite_with_rowid=False,
)
"""Traces in queues."""

SCORERS = sa.Table(
    "scorers",
    METADATA,
    sa.Column("experiment_id", _Text, sa.ForeignKey("experiments.experiment_id"), primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("scorer_id", _Text, nullable=False),
    sa.Column("serialized", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Versions of scorers; all of one name share a `scorer_id`."""

PURGES = sa.Table(
    "purges",
    METADATA,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("id", _Text, primary_key=True),
    sa.Column("experiment_id", _Text, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("is_late", sa.Boolean, nullable=False),
    sa.Index("ix_purges_due", "due_at", "kind", "id"),
    sqlite_with_rowid=False,
)
"""What is being removed for good; an experiment's note stands for its runs and models too."""
