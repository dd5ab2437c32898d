"""Rate limits' windows in inference's database, for all gateways together."""

from __future__ import annotations

from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from services.inference.adapters.sql.tables import RATE_WINDOW
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["SqlBudgets"]

_WINDOW: Final = RATE_WINDOW


class SqlBudgets:
    """`ports.RateBudgets` in a database: takers compare and swap, so none takes what is not there.

    Args:
        database: Inference's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, endpoint_id: str, key: str, start: int, want: int, calls: int) -> int:
        """Take calls of a window."""
        here = sa.and_(
            _WINDOW.c.endpoint_id == endpoint_id,
            _WINDOW.c.budget == key,
            _WINDOW.c.started_at == start,
        )
        while True:
            async with UnitOfWork(self._database) as uow:
                taken = await uow.session.scalar(sa.select(_WINDOW.c.taken).where(here))
                given = min(want, calls - (taken or 0))
                if given <= 0:
                    return 0
                if taken is None:
                    row = {"endpoint_id": endpoint_id, "budget": key, "started_at": start}
                    try:
                        await uow.session.execute(sa.insert(_WINDOW).values(**row, taken=given))
                    except IntegrityError:
                        # Another gateway was the first.
                        await uow.rollback()
                        continue
                    await uow.commit()
                    return given
                result = await uow.session.execute(
                    sa.update(_WINDOW)
                    .where(here, _WINDOW.c.taken == taken)
                    .values(taken=taken + given)
                )
                if cast("sa.CursorResult[Any]", result).rowcount == 1:
                    await uow.commit()
                    return given

    async def expire(self, before: int) -> None:
        """Forget windows that began before a Unix second."""
        async with UnitOfWork(self._database) as uow:
            await uow.session.execute(sa.delete(_WINDOW).where(_WINDOW.c.started_at < before))
            await uow.commit()
