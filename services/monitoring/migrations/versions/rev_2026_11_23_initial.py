"""Monitors, windows, verdicts and alerts, and the bus tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tessera_kit.store import bus_tables_v1

revision = "2026_11_23_initial"
down_revision = None

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_Position = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _monitor_key(*, primary_key: bool) -> sa.Column[str]:
    key = sa.ForeignKey("monitors.id", ondelete="CASCADE")
    return sa.Column("monitor_id", _Text, key, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    op.create_table(
        "monitors",
        sa.Column("id", _Text, primary_key=True),
        sa.Column("name", _Text, nullable=False, unique=True),
        sa.Column("table_full_name", _Text, nullable=False, index=True),
        sa.Column("is_inference", sa.Boolean, nullable=False, index=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("etag", _Text, nullable=False),
        sa.Column("created_by", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "schemas",
        _monitor_key(primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    _windows()
    _alerts()
    op.create_table(
        "requests",
        sa.Column("request_key", _Text, primary_key=True),
        _monitor_key(primary_key=False),
    )
    bus_tables_v1.create()


def _windows() -> None:
    op.create_table(
        "windows",
        _monitor_key(primary_key=True),
        sa.Column("start_us", sa.BigInteger, primary_key=True),
        sa.Column("end_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("label_count", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("computed_at", sa.BigInteger),
        sa.Column("first_request_us", sa.BigInteger),
        sa.Column("last_request_us", sa.BigInteger),
        sa.Column("label_marks", sa.Integer, nullable=False),
        sa.Column("label_marks_computed", sa.Integer, nullable=False),
    )
    op.create_table(
        "verdicts",
        _monitor_key(primary_key=True),
        sa.Column("rule", _Text, primary_key=True),
        sa.Column("start_us", sa.BigInteger, primary_key=True),
        sa.Column("end_us", sa.BigInteger, nullable=False),
        sa.Column("met", sa.Boolean, nullable=False),
        sa.Column("column_name", _Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
    )


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", _Text, primary_key=True),
        _monitor_key(primary_key=False),
        sa.Column("monitor", _Text, nullable=False),
        sa.Column("rule", _Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("fired_at", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Index("ix_alerts_rule", "monitor_id", "rule", "state"),
        sa.Index("ix_alerts_fired", "fired_at", "id"),
    )
    op.create_table(
        "alert_changes",
        sa.Column("position", _Position, primary_key=True, autoincrement=True),
        _monitor_key(primary_key=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Index("ix_alert_changes_monitor", "monitor_id", "position"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    bus_tables_v1.drop()
    for table in (
        *("requests", "alert_changes", "alerts", "verdicts"),
        *("windows", "schemas", "monitors"),
    ):
        op.drop_table(table)
