"""What is known of metrics lies as searches ask for it; the log names metrics itself."""

from __future__ import annotations

import json
import struct

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_metric_search"
down_revision = "2026_11_26_traces"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_OLD = struct.Struct("<qqqd")
_NEW = struct.Struct("<iqqd")


def upgrade() -> None:
    op.add_column("point_log", sa.Column("keys", sa.Text, nullable=False, server_default="[]"))
    _name_metrics()
    op.rename_table("latest_metrics", "old_metrics")
    op.create_table(
        "latest_metrics",
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
    columns = "key, run_no, step, timestamp, is_nan, value, min_value, max_value"
    op.execute(
        f"INSERT INTO latest_metrics ({columns}) "  # noqa: S608
        f"SELECT {columns} FROM old_metrics ORDER BY key, run_no"
    )
    op.drop_table("old_metrics")


def _name_metrics() -> None:
    connection = op.get_bind()
    rows = sa.text(
        "SELECT log_no, data FROM point_log WHERE log_no > :after ORDER BY log_no LIMIT 1"
    )
    name = sa.text("SELECT key FROM latest_metrics WHERE metric_no = :metric_no")
    put = sa.text("UPDATE point_log SET keys = :keys, data = :data WHERE log_no = :log_no")
    after = 0
    while (row := connection.execute(rows, {"after": after}).first()) is not None:
        after = row.log_no
        places: dict[int, int] = {}
        packed = [
            _NEW.pack(places.setdefault(metric_no, len(places)), *point)
            for metric_no, *point in _OLD.iter_unpack(row.data)
        ]
        keys = [connection.scalar(name, {"metric_no": metric_no}) for metric_no in places]
        data = {"log_no": after, "keys": json.dumps(keys), "data": b"".join(packed)}
        connection.execute(put, data)


def downgrade() -> None:
    raise NotImplementedError("metrics have lost their numbers")
