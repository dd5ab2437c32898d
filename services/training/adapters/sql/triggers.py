"""Triggers and their firings, in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.training.adapters.sql.inserts import insert_if_new
from services.training.adapters.sql.rows import chore_row, micros, trigger_row, trigger_value
from services.training.adapters.sql.tables import CHORE, FIRING, TRIGGER
from services.training.domain.chore import Chore, ChoreKind
from services.training.domain.trigger import FiringOutcome, Trigger, TriggerEvent
from services.training.errors import TriggerExists, TriggerNotFound
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["FiringUnitOfWork", "SqlFirings", "SqlTriggers"]


class SqlTriggers:
    """`ports.Triggers` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, trigger: Trigger, request_id: str) -> Trigger:
        """Store a new trigger; an earlier one of the same request comes back instead."""
        row = {**trigger_row(trigger), "request_id": request_id or None}
        async with self._database.writers.begin() as session:
            if await insert_if_new(session, TRIGGER, row):
                return trigger
        if request_id:
            query = sa.select(TRIGGER).where(
                TRIGGER.c.created_by == trigger.created_by, TRIGGER.c.request_id == request_id
            )
            if found := await self._read(query):
                return found[0]
        raise TriggerExists(
            f"there is a trigger {trigger.name!r} already", metadata={"trigger": trigger.name}
        )

    async def get(self, name: str) -> Trigger:
        """Read a trigger."""
        found = await self._read(sa.select(TRIGGER).where(TRIGGER.c.name == name))
        if not found:
            raise _missing(name)
        return found[0]

    async def page(self, after: str, limit: int) -> Sequence[Trigger]:
        """Triggers with names above `after`, by name."""
        query = (
            sa.select(TRIGGER).where(TRIGGER.c.name > after).order_by(TRIGGER.c.name).limit(limit)
        )
        return await self._read(query)

    async def delete(self, name: str) -> None:
        """Remove a trigger."""
        async with self._database.writers.begin() as session:
            removed = await session.scalar(
                sa.delete(TRIGGER).where(TRIGGER.c.name == name).returning(TRIGGER.c.name)
            )
        if removed is None:
            raise _missing(name)

    async def settle(
        self,
        name: str,
        event_id: str,
        outcome: FiringOutcome,
        at: datetime,
        job_id: str,
        message: str,
    ) -> None:
        """Record what became of an event; a submission becomes the trigger's last one."""
        firing = (
            sa.update(FIRING)
            .where(FIRING.c.trigger_name == name, FIRING.c.event_id == event_id)
            .values(outcome=outcome.value, settled_at=micros(at), job_id=job_id, message=message)
        )
        async with self._database.writers.begin() as session:
            await session.execute(firing)
            if outcome is FiringOutcome.SUBMITTED:
                await session.execute(
                    sa.update(TRIGGER)
                    .where(TRIGGER.c.name == name)
                    .values(last_job_id=job_id, last_submitted_at=micros(at))
                )

    async def outcome(self, name: str, event_id: str) -> FiringOutcome | None:
        """What became of an event; None when it is open or unknown."""
        query = sa.select(FIRING.c.outcome).where(
            FIRING.c.trigger_name == name, FIRING.c.event_id == event_id
        )
        async with self._database.sessions() as session:
            value = await session.scalar(query)
        return None if value is None else FiringOutcome(value)

    async def _read(self, query: sa.Select[Any]) -> list[Trigger]:
        async with self._database.sessions() as session:
            rows = (await session.execute(query)).mappings().all()
        return [trigger_value(row) for row in rows]


class SqlFirings:
    """`ports.Firings` in a consumer's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def matching(self, event: TriggerEvent, subject: str, at: datetime) -> Sequence[Trigger]:
        """Triggers of this event and subject that existed at a time."""
        query = (
            sa.select(TRIGGER)
            .where(
                TRIGGER.c.event == event.value,
                TRIGGER.c.subject == subject,
                TRIGGER.c.created_at <= micros(at),
            )
            .order_by(TRIGGER.c.name)
        )
        rows = (await self._session.execute(query)).mappings().all()
        return [trigger_value(row) for row in rows]

    async def owe(self, trigger: Trigger, event_id: str, at: datetime) -> None:
        """Note that an event concerns a trigger and owe its firing."""
        firing = {
            "trigger_name": trigger.name,
            "event_id": event_id,
            "observed_at": micros(at),
            "job_id": "",
            "message": "",
        }
        if not await insert_if_new(self._session, FIRING, firing):
            return
        chore = Chore(
            f"fire:{trigger.name}:{event_id}",
            ChoreKind.FIRE_TRIGGER,
            trigger.name,
            # Due at once, whatever the clock of whoever told the event.
            trigger.created_at,
            {"event_id": event_id},
        )
        await insert_if_new(self._session, CHORE, chore_row(chore))


class FiringUnitOfWork(UnitOfWork):
    """A consumer's transaction that wakes who does chores once it is stored.

    Args:
        database: Where it writes.
        owed: Set after each commit.
    """

    def __init__(self, database: Database, owed: asyncio.Event) -> None:
        super().__init__(database)
        self._owed = owed

    async def commit(self) -> None:
        """Store everything, then wake."""
        await super().commit()
        self._owed.set()


def _missing(name: str) -> TriggerNotFound:
    return TriggerNotFound(f"there is no trigger {name!r}", metadata={"trigger": name})
