"""The transaction port in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from services.monitoring.adapters.documents import alert_document, alert_of, schema_document
from services.monitoring.adapters.sql.records import (
    monitor_of_row,
    monitor_row,
    window_row,
)
from services.monitoring.adapters.sql.tables import (
    ALERT_CHANGES,
    ALERTS,
    MONITORS,
    REQUESTS,
    SCHEMAS,
    VERDICTS,
    WINDOWS,
)
from services.monitoring.domain.alerts import Alert, AlertState, Verdict
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.monitor import Monitor
from services.monitoring.domain.windows import WindowRecord, microseconds
from services.monitoring.errors import MonitorExists, StaleMonitor, WindowRaced
from tessera_kit.bus.event import Event
from tessera_kit.store.sql import UnitOfWork

__all__ = ["SqlTransaction"]


class SqlTransaction:
    """What is stored together or not at all."""

    def __init__(self, unit: UnitOfWork, dialect: str) -> None:
        self._unit = unit
        self._insert = postgresql.insert if dialect == "postgresql" else sqlite.insert

    async def get_monitor(self, name: str) -> Monitor | None:
        """The monitor, locked against other writers until the end."""
        statement = sa.select(MONITORS).where(MONITORS.c.name == name).with_for_update()
        row = (await self._unit.session.execute(statement)).first()
        return None if row is None else monitor_of_row(row)

    async def insert_monitor(self, monitor: Monitor, request_key: str) -> None:
        """Add a monitor."""
        try:
            await self._unit.session.execute(sa.insert(MONITORS), monitor_row(monitor))
        except IntegrityError as error:
            raise MonitorExists(monitor.name) from error
        if request_key:
            await self._unit.session.execute(
                sa.insert(REQUESTS), {"request_key": request_key, "monitor_id": monitor.id}
            )

    async def update_monitor(self, monitor: Monitor, expected_etag: str) -> None:
        """Replace a monitor."""
        changed = await self._changed(
            sa.update(MONITORS)
            .where(MONITORS.c.id == monitor.id, MONITORS.c.etag == expected_etag)
            .values(**monitor_row(monitor))
        )
        if not changed:
            raise StaleMonitor(monitor.name)

    async def delete_monitor(self, monitor: Monitor) -> None:
        """Remove a monitor with its windows, verdicts and alerts."""
        await self._unit.session.execute(sa.delete(MONITORS).where(MONITORS.c.id == monitor.id))

    async def save_schema(
        self, monitor: Monitor, schema: RowSchema, baseline_slices: Sequence[str] | None
    ) -> None:
        """Keep what is read of the rows, and by what the baseline is sliced, for its version."""
        row = {
            "monitor_id": monitor.id,
            "version": monitor.version,
            "document": schema_document(schema, baseline_slices),
        }
        await self._put(SCHEMAS, row, ["monitor_id", "version"])

    async def save_windows(
        self, monitor_id: str, records: Sequence[WindowRecord], *, computed: bool
    ) -> None:
        """Add or replace windows."""
        for record in records:
            if not await self._save_window(monitor_id, record, computed):
                raise WindowRaced("the window was computed by another worker at the same time")

    async def _save_window(self, monitor_id: str, record: WindowRecord, computed: bool) -> bool:
        row = window_row(monitor_id, record)
        stored = record.revision - 1 if computed else record.revision
        # Marks are counted by `mark_labels` alone: one may have come since the record was read.
        values = {name: value for name, value in row.items() if name != "label_marks"}
        if await self._changed(
            sa.update(WINDOWS)
            .where(
                WINDOWS.c.monitor_id == monitor_id,
                WINDOWS.c.start_us == record.start_us,
                WINDOWS.c.revision == stored,
            )
            .values(**values)
        ):
            return True
        if stored != 0:
            return False
        insert = self._insert(WINDOWS).values(**row).on_conflict_do_nothing()
        return bool(await self._changed(insert))

    async def mark_labels(self, monitor_id: str, starts: Collection[int]) -> int:
        """Note that labels came for windows that are stored; returns for how many."""
        if not starts:
            return 0
        return await self._changed(
            sa.update(WINDOWS)
            .where(WINDOWS.c.monitor_id == monitor_id, WINDOWS.c.start_us.in_(sorted(starts)))
            .values(label_marks=WINDOWS.c.label_marks + 1)
        )

    async def save_verdict(self, monitor_id: str, rule: str, verdict: Verdict) -> None:
        """Keep a window's verdict, in place of an earlier one."""
        row = {
            "monitor_id": monitor_id,
            "rule": rule,
            "start_us": verdict.start_us,
            "end_us": verdict.end_us,
            "met": verdict.met,
            "column_name": verdict.column,
            "value": verdict.value,
        }
        await self._put(VERDICTS, row, ["monitor_id", "rule", "start_us"])

    async def drop_verdicts(self, monitor_id: str, rule: str, start_us: int | None = None) -> None:
        """Forget a window's verdict, or all of a rule."""
        statement = sa.delete(VERDICTS).where(
            VERDICTS.c.monitor_id == monitor_id, VERDICTS.c.rule == rule
        )
        if start_us is not None:
            statement = statement.where(VERDICTS.c.start_us == start_us)
        await self._unit.session.execute(statement)

    async def last_verdicts(self, monitor_id: str, rule: str, count: int) -> list[Verdict]:
        """The verdicts of the latest windows, the earliest first."""
        statement = (
            sa.select(VERDICTS)
            .where(VERDICTS.c.monitor_id == monitor_id, VERDICTS.c.rule == rule)
            .order_by(VERDICTS.c.start_us.desc())
            .limit(count)
        )
        rows = (await self._unit.session.execute(statement)).all()
        return [
            Verdict(row.start_us, row.end_us, row.met, row.column_name, row.value)
            for row in reversed(rows)
        ]

    async def active_alert(self, monitor_id: str, rule: str) -> Alert | None:
        """The rule's alert that is firing."""
        statement = sa.select(ALERTS.c.document).where(
            ALERTS.c.monitor_id == monitor_id,
            ALERTS.c.rule == rule,
            ALERTS.c.state == AlertState.FIRING.value,
        )
        row = (await self._unit.session.execute(statement)).first()
        return None if row is None else alert_of(row.document)

    async def save_alert(self, monitor_id: str, alert: Alert) -> None:
        """Add or replace an alert, as a change that watchers see."""
        document = alert_document(alert)
        row = {
            "id": alert.id,
            "monitor_id": monitor_id,
            "monitor": alert.monitor,
            "rule": alert.rule,
            "state": alert.state.value,
            "fired_at": microseconds(alert.fired_at),
            "document": document,
        }
        await self._put(ALERTS, row, ["id"])
        await self._unit.session.execute(
            sa.insert(ALERT_CHANGES), {"monitor_id": monitor_id, "document": document}
        )

    def publish(self, event: Event) -> None:
        """Tell an event when the transaction commits."""
        self._unit.publish(event)

    async def commit(self) -> None:
        """Store everything."""
        await self._unit.commit()

    async def _put(self, table: sa.Table, row: dict[str, Any], key: list[str]) -> None:
        values = {name: value for name, value in row.items() if name not in key}
        await self._unit.session.execute(
            self._insert(table).values(**row).on_conflict_do_update(index_elements=key, set_=values)
        )

    async def _changed(self, statement: sa.UpdateBase) -> int:
        result = await self._unit.session.execute(statement)
        return cast("sa.CursorResult[Any]", result).rowcount
