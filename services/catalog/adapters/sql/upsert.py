"""Insert or update, in the two dialects that both write it as ON CONFLICT."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["insert_new", "upsert"]


def _insert(session: AsyncSession, table: sa.Table) -> Any:
    dialect = session.get_bind().dialect.name
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def upsert(session: AsyncSession, table: sa.Table, row: dict[str, Any]) -> sa.Executable:
    """Insert a row, or update the one of the same primary key."""
    keys = [column.name for column in table.primary_key]
    values = {name: value for name, value in row.items() if name not in keys}
    statement: sa.Executable = (
        _insert(session, table).values(row).on_conflict_do_update(index_elements=keys, set_=values)
    )
    return statement


def insert_new(session: AsyncSession, table: sa.Table, row: dict[str, Any]) -> sa.Executable:
    """Insert a row; one of the same primary key stays as it is."""
    keys = [column.name for column in table.primary_key]
    statement: sa.Executable = (
        _insert(session, table).values(row).on_conflict_do_nothing(index_elements=keys)
    )
    return statement
