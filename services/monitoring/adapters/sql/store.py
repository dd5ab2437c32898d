"""The store port in SQL: reads in sessions of their own, writes in units of work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from services.monitoring.adapters.documents import alert_of, schema_of
from services.monitoring.adapters.sql.records import (
    is_dirty,
    monitor_of_row,
    window_of_row,
)
from services.monitoring.adapters.sql.tables import (
    ALERT_CHANGES,
    ALERTS,
    MONITORS,
    REQUESTS,
    SCHEMAS,
    WINDOWS,
)
from services.monitoring.adapters.sql.transaction import SqlTransaction
from services.monitoring.domain.alerts import Alert, AlertState
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.monitor import Monitor
from services.monitoring.domain.windows import WindowRecord, WindowState, microseconds
from services.monitoring.ports import AlertChange
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["SqlStore"]

# SQLite takes at most 32,766 parameters in a statement.
_MOST_PARAMETERS = 10_000


class SqlStore:
    """The store in one database.

    Args:
        database: The database; its tables are made by the service's migrations.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlTransaction]:
        """Begin; leaving the block without `commit` drops everything."""
        async with UnitOfWork(self._database) as unit:
            yield SqlTransaction(unit, self._database.dialect)

    async def get_monitor(self, name: str) -> Monitor | None:
        """The monitor of a name."""
        rows = await self._rows(sa.select(MONITORS).where(MONITORS.c.name == name))
        return monitor_of_row(rows[0]) if rows else None

    async def monitor_of_request(self, request_key: str) -> str | None:
        """The name of the monitor that an idempotent call made."""
        rows = await self._rows(
            sa.select(MONITORS.c.name)
            .join(REQUESTS, REQUESTS.c.monitor_id == MONITORS.c.id)
            .where(REQUESTS.c.request_key == request_key)
        )
        return rows[0].name if rows else None

    async def list_monitors(self, table: str, after: str, limit: int) -> list[Monitor]:
        """Monitors by name, those after a name; of one table unless it is empty."""
        statement = sa.select(MONITORS).where(MONITORS.c.name > after)
        if table:
            statement = statement.where(MONITORS.c.table_full_name == table)
        rows = await self._rows(statement.order_by(MONITORS.c.name).limit(limit))
        return [monitor_of_row(row) for row in rows]

    async def monitors_of_table(self, table: str) -> list[Monitor]:
        """All monitors of a table."""
        rows = await self._rows(
            sa.select(MONITORS).where(MONITORS.c.table_full_name == table).order_by(MONITORS.c.name)
        )
        return [monitor_of_row(row) for row in rows]

    async def monitors_of_endpoints(self) -> list[Monitor]:
        """All monitors of inference tables."""
        rows = await self._rows(
            sa.select(MONITORS).where(MONITORS.c.is_inference).order_by(MONITORS.c.name)
        )
        return [monitor_of_row(row) for row in rows]

    async def get_schema(self, monitor: Monitor) -> tuple[RowSchema | None, tuple[str, ...] | None]:
        """What `save_schema` kept for the monitor's version; nothing before."""
        rows = await self._rows(
            sa.select(SCHEMAS.c.document).where(
                SCHEMAS.c.monitor_id == monitor.id, SCHEMAS.c.version == monitor.version
            )
        )
        return schema_of(rows[0].document) if rows else (None, None)

    async def list_windows(
        self, monitor_id: str, after_us: int | None, limit: int
    ) -> list[WindowRecord]:
        """Windows by start, those that start after a time."""
        statement = sa.select(WINDOWS).where(WINDOWS.c.monitor_id == monitor_id)
        if after_us is not None:
            statement = statement.where(WINDOWS.c.start_us > after_us)
        rows = await self._rows(statement.order_by(WINDOWS.c.start_us).limit(limit))
        return [window_of_row(row) for row in rows]

    async def get_windows(self, monitor_id: str, starts: Iterable[int]) -> dict[int, WindowRecord]:
        """Windows by start; those that are not stored are left out."""
        wanted = sorted(set(starts))
        found: dict[int, WindowRecord] = {}
        for begin in range(0, len(wanted), _MOST_PARAMETERS):
            part = wanted[begin : begin + _MOST_PARAMETERS]
            rows = await self._rows(
                sa.select(WINDOWS).where(
                    WINDOWS.c.monitor_id == monitor_id, WINDOWS.c.start_us.in_(part)
                )
            )
            found |= {row.start_us: window_of_row(row) for row in rows}
        return found

    async def closed_before(self, monitor_id: str, start_us: int) -> WindowRecord | None:
        """The latest closed window with rows that starts before a time."""
        start = WINDOWS.c.start_us
        return await self._first_closed(monitor_id, start < start_us, start.desc())

    async def closed_after(self, monitor_id: str, start_us: int) -> WindowRecord | None:
        """The earliest closed window with rows that starts after a time."""
        start = WINDOWS.c.start_us
        return await self._first_closed(monitor_id, start > start_us, start)

    async def _first_closed(
        self, monitor_id: str, where: sa.ColumnElement[bool], order: sa.ColumnElement[int]
    ) -> WindowRecord | None:
        rows = await self._rows(
            sa.select(WINDOWS)
            .where(
                WINDOWS.c.monitor_id == monitor_id,
                where,
                WINDOWS.c.state == WindowState.CLOSED.value,
                WINDOWS.c.row_count > 0,
            )
            .order_by(order)
            .limit(1)
        )
        return window_of_row(rows[0]) if rows else None

    async def dirty_windows(self) -> dict[str, list[WindowRecord]]:
        """Closed windows that labels came for since they were computed, by monitor name."""
        rows = await self._rows(
            sa.select(WINDOWS, MONITORS.c.name.label("monitor_name"))
            .join(MONITORS, MONITORS.c.id == WINDOWS.c.monitor_id)
            .where(WINDOWS.c.state == WindowState.CLOSED.value, is_dirty())
            .order_by(MONITORS.c.name, WINDOWS.c.start_us)
        )
        found: dict[str, list[WindowRecord]] = {}
        for row in rows:
            found.setdefault(row.monitor_name, []).append(window_of_row(row))
        return found

    async def list_alerts(
        self,
        monitors: Collection[str] | None,
        states: Collection[AlertState],
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Alert]:
        """Alerts, the newest first."""
        statement = sa.select(ALERTS.c.document)
        if monitors is not None:
            statement = statement.where(ALERTS.c.monitor.in_(list(monitors)))
        if states:
            statement = statement.where(ALERTS.c.state.in_([state.value for state in states]))
        if before is not None:
            time, ident = before
            place = sa.tuple_(ALERTS.c.fired_at, ALERTS.c.id)
            statement = statement.where(place < sa.tuple_(microseconds(time), ident))
        order = (ALERTS.c.fired_at.desc(), ALERTS.c.id.desc())
        rows = await self._rows(statement.order_by(*order).limit(limit))
        return [alert_of(row.document) for row in rows]

    async def alert_changes(self, monitor_id: str, after: int, limit: int) -> list[AlertChange]:
        """Changes of a monitor's alerts, in order."""
        rows = await self._rows(
            sa.select(ALERT_CHANGES.c.position, ALERT_CHANGES.c.document)
            .where(ALERT_CHANGES.c.monitor_id == monitor_id, ALERT_CHANGES.c.position > after)
            .order_by(ALERT_CHANGES.c.position)
            .limit(limit)
        )
        return [AlertChange(row.position, alert_of(row.document)) for row in rows]

    async def last_alert_position(self) -> int:
        """The position of the latest change; 0 before the first."""
        rows = await self._rows(
            sa.select(sa.func.coalesce(sa.func.max(ALERT_CHANGES.c.position), 0))
        )
        return int(rows[0][0])

    async def _rows(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        async with self._database.sessions() as session:
            rows: Sequence[sa.Row[Any]] = (await session.execute(statement)).all()
            return rows
