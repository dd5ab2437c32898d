"""The one statement that the two databases write differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["insert_if_new"]


async def insert_if_new(session: AsyncSession, table: sa.Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless one with any of its unique keys exists; returns whether it did."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    result = await session.execute(insert(table).values(**row).on_conflict_do_nothing())
    return cast("sa.CursorResult[Any]", result).rowcount > 0
