"""The tables of the service's database, as the code sees them; the migrations make them.

Times are microseconds since 1970.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from tessera_kit.bus.tables import outbox_tables

__all__ = [
    "ALERTS",
    "ALERT_CHANGES",
    "METADATA",
    "MONITORS",
    "REQUESTS",
    "SCHEMAS",
    "VERDICTS",
    "WINDOWS",
]

METADATA = sa.MetaData()

# Names are ordered by bytes on every database, or pages would skip some.
_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_Position = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Document = sa.LargeBinary


def _monitor_key(*, primary_key: bool) -> sa.Column[str]:
    key = sa.ForeignKey("monitors.id", ondelete="CASCADE")
    return sa.Column("monitor_id", _Text, key, primary_key=primary_key, nullable=False)


MONITORS = sa.Table(
    "monitors",
    METADATA,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False, unique=True),
    sa.Column("table_full_name", _Text, nullable=False, index=True),
    sa.Column("is_inference", sa.Boolean, nullable=False, index=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("etag", _Text, nullable=False),
    sa.Column("created_by", _Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
)

SCHEMAS = sa.Table(
    "schemas",
    METADATA,
    _monitor_key(primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("document", _Document, nullable=False),
)

WINDOWS = sa.Table(
    "windows",
    METADATA,
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

VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    _monitor_key(primary_key=True),
    sa.Column("rule", _Text, primary_key=True),
    sa.Column("start_us", sa.BigInteger, primary_key=True),
    sa.Column("end_us", sa.BigInteger, nullable=False),
    sa.Column("met", sa.Boolean, nullable=False),
    sa.Column("column_name", _Text, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
)

ALERTS = sa.Table(
    "alerts",
    METADATA,
    sa.Column("id", _Text, primary_key=True),
    _monitor_key(primary_key=False),
    sa.Column("monitor", _Text, nullable=False),
    sa.Column("rule", _Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("fired_at", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
    sa.Index("ix_alerts_rule", "monitor_id", "rule", "state"),
    sa.Index("ix_alerts_fired", "fired_at", "id"),
)

ALERT_CHANGES = sa.Table(
    "alert_changes",
    METADATA,
    sa.Column("position", _Position, primary_key=True, autoincrement=True),
    _monitor_key(primary_key=False),
    sa.Column("document", _Document, nullable=False),
    sa.Index("ix_alert_changes_monitor", "monitor_id", "position"),
    sqlite_autoincrement=True,
)

REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("request_key", _Text, primary_key=True),
    _monitor_key(primary_key=False),
)

outbox_tables(METADATA)
