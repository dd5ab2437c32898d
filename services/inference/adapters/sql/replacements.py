"""Who replaces the runtime, and who waits for that, in inference's database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from services.inference.adapters.sql.tables import REPLACEMENT, REPLACEMENT_FOLLOWER
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["SqlReplacements"]

_ONE: Final = 1
"""All processes have one runtime, so there is one replacement at most."""


class SqlReplacements:
    """`ports.Replacements` in a database.

    Args:
        database: Inference's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lead(self, process: str, *, now: datetime, until: datetime) -> bool:
        """Begin a replacement, or go on with one."""
        values = {"process": process, "until": _micros(until)}
        here = REPLACEMENT.c.place == _ONE
        async with UnitOfWork(self._database) as uow:
            own = sa.update(REPLACEMENT).where(here, REPLACEMENT.c.process == process)
            if await _changed(uow, own.values(values)):
                await uow.commit()
                return True
            over = sa.update(REPLACEMENT).where(here, REPLACEMENT.c.until <= _micros(now))
            if not await _changed(uow, over.values(values)):
                try:
                    await uow.session.execute(sa.insert(REPLACEMENT).values(place=_ONE, **values))
                except IntegrityError:
                    await uow.rollback()
                    return False
            await uow.session.execute(sa.delete(REPLACEMENT_FOLLOWER))
            await uow.commit()
        return True

    async def under_way(self, now: datetime, *, but: str) -> datetime | None:
        """When the lease of a replacement ends that another process leads."""
        query = sa.select(REPLACEMENT.c.until).where(
            REPLACEMENT.c.place == _ONE,
            REPLACEMENT.c.process != but,
            REPLACEMENT.c.until > _micros(now),
        )
        async with UnitOfWork(self._database) as uow:
            until = await uow.session.scalar(query)
        return None if until is None else datetime.fromtimestamp(until / 1e6, UTC)

    async def join(self, process: str, *, is_drained: bool) -> None:
        """Note that a process lets its requests wait."""
        values = {"process": process, "is_drained": is_drained}
        async with UnitOfWork(self._database) as uow:
            known = sa.update(REPLACEMENT_FOLLOWER).where(REPLACEMENT_FOLLOWER.c.process == process)
            if not await _changed(uow, known.values(values)):
                await uow.session.execute(sa.insert(REPLACEMENT_FOLLOWER).values(values))
            await uow.commit()

    async def drained(self) -> bool:
        """Whether no process that joined has requests in the runtime."""
        query = sa.select(sa.func.count()).where(~REPLACEMENT_FOLLOWER.c.is_drained)
        async with UnitOfWork(self._database) as uow:
            return not await uow.session.scalar(query)

    async def finish(self, process: str) -> None:
        """End a replacement, if that process leads it."""
        async with UnitOfWork(self._database) as uow:
            if await _changed(uow, sa.delete(REPLACEMENT).where(REPLACEMENT.c.process == process)):
                await uow.session.execute(sa.delete(REPLACEMENT_FOLLOWER))
                await uow.commit()


async def _changed(uow: UnitOfWork, statement: sa.Update | sa.Delete) -> bool:
    result = await uow.session.execute(statement)
    return cast("sa.CursorResult[Any]", result).rowcount == 1


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)
