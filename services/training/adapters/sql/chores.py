"""What is owed, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from services.training.adapters.sql.rows import chore_value, micros, moment
from services.training.adapters.sql.tables import CHORE
from services.training.domain.chore import Chore
from tessera_kit.store.sql import Database

__all__ = ["SqlChores"]


class SqlChores:
    """`ports.Chores` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: datetime, limit: int) -> Sequence[Chore]:
        """Chores whose time has come, the longest due first."""
        query = (
            sa.select(CHORE)
            .where(CHORE.c.due_at <= micros(now))
            .order_by(CHORE.c.due_at, CHORE.c.chore_id)
            .limit(limit)
        )
        async with self._database.sessions() as session:
            rows = (await session.execute(query)).mappings().all()
        return [chore_value(row) for row in rows]

    async def next_due(self) -> datetime | None:
        """When the next chore is due; None when none is owed."""
        async with self._database.sessions() as session:
            return moment(await session.scalar(sa.select(sa.func.min(CHORE.c.due_at))))

    async def done(self, chore_id: str) -> None:
        """Forget a chore."""
        async with self._database.writers.begin() as session:
            await session.execute(sa.delete(CHORE).where(CHORE.c.chore_id == chore_id))

    async def postpone(self, chore_id: str, due_at: datetime) -> None:
        """Try a chore again later; counts the failure."""
        update = (
            sa.update(CHORE)
            .where(CHORE.c.chore_id == chore_id)
            .values(due_at=micros(due_at), tries=CHORE.c.tries + 1)
        )
        async with self._database.writers.begin() as session:
            await session.execute(update)
