"""Between rows of the database and the domain."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from services.monitoring.adapters.documents import monitor_document, monitor_of
from services.monitoring.adapters.sql.tables import WINDOWS
from services.monitoring.domain.monitor import Monitor, SnapshotProfile
from services.monitoring.domain.windows import (
    RequestRange,
    WindowRecord,
    WindowState,
    microseconds,
    moment,
)

__all__ = ["is_dirty", "monitor_of_row", "monitor_row", "window_of_row", "window_row"]


def monitor_row(monitor: Monitor) -> dict[str, Any]:
    """A row of MONITORS."""
    if monitor.created_at is None or monitor.updated_at is None:
        raise ValueError("a stored monitor has times")
    return {
        "id": monitor.id,
        "name": monitor.name,
        "table_full_name": monitor.table_full_name,
        "is_inference": monitor.inference is not None,
        "version": monitor.version,
        "etag": monitor.etag,
        "created_by": monitor.created_by,
        "created_at": microseconds(monitor.created_at),
        "updated_at": microseconds(monitor.updated_at),
        "document": monitor_document(monitor),
    }


def monitor_of_row(row: sa.Row[Any]) -> Monitor:
    """The monitor of a row of MONITORS."""
    named = Monitor(
        name=row.name,
        table_full_name=row.table_full_name,
        profile=SnapshotProfile(),
        id=row.id,
        created_by=row.created_by,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        etag=row.etag,
        version=row.version,
    )
    return monitor_of(row.document, named)


def window_row(monitor_id: str, record: WindowRecord) -> dict[str, Any]:
    """A row of WINDOWS."""
    requests = record.requests
    return {
        "monitor_id": monitor_id,
        "start_us": record.start_us,
        "end_us": record.end_us,
        "state": record.state.value,
        "row_count": record.row_count,
        "label_count": record.label_count,
        "revision": record.revision,
        "computed_at": None if record.computed_at is None else microseconds(record.computed_at),
        "first_request_us": None if requests is None else requests.first_us,
        "last_request_us": None if requests is None else requests.last_us,
        "label_marks": record.label_marks,
        "label_marks_computed": record.label_marks_computed,
    }


def window_of_row(row: sa.Row[Any]) -> WindowRecord:
    """The window of a row of WINDOWS."""
    requests = None
    if row.first_request_us is not None and row.last_request_us is not None:
        requests = RequestRange(row.first_request_us, row.last_request_us)
    return WindowRecord(
        start_us=row.start_us,
        end_us=row.end_us,
        state=WindowState(row.state),
        row_count=row.row_count,
        label_count=row.label_count,
        revision=row.revision,
        computed_at=None if row.computed_at is None else moment(row.computed_at),
        requests=requests,
        label_marks=row.label_marks,
        label_marks_computed=row.label_marks_computed,
    )


def is_dirty() -> sa.ColumnElement[bool]:
    """Whether labels came for a window since it was computed."""
    return WINDOWS.c.label_marks > WINDOWS.c.label_marks_computed
