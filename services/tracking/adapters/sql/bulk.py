"""Many rows in few statements.

A driver's `executemany` hands each row to the database by itself: with SQLite it lets go of the
interpreter's lock and takes it back per row, which beside a busy event loop costs up to a switch
interval each time (measured: 1,000 rows/s, against 200,000 this way). Here one statement carries up
to 1,000 rows, in blocks of few sizes, so that the driver finds most statements prepared. Values
only ever travel as parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["in_blocks", "insert_rows", "insert_statements"]

# Both databases take at most 32,766 parameters in a statement.
_BLOCKS = (1000, 100)


async def insert_rows(
    connection: AsyncConnection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    suffix: str,
    fetch: bool = False,
) -> list[Any]:
    """Insert rows; with `fetch` return what `RETURNING` in the suffix yields.

    Args:
        connection: Inside a transaction.
        table: Where to.
        columns: The columns that each row has values for, in order.
        rows: The values.
        suffix: What follows the values, as `ON CONFLICT DO NOTHING`: a constant of the program.
        fetch: Whether the suffix returns rows.
    """
    fetched: list[Any] = []
    dialect = connection.dialect.name
    for statement, values in insert_statements(dialect, table, columns, rows, suffix=suffix):
        result = await connection.exec_driver_sql(statement, values)
        if fetch:
            fetched += result.all()
    return fetched


def insert_statements(
    dialect: str,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    suffix: str,
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the statements that insert rows, each with its parameters."""
    for block in in_blocks(rows):
        statement = _statement(dialect, table.name, tuple(columns), len(block), suffix)
        yield statement, tuple(chain.from_iterable(block))


def in_blocks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut rows into blocks of 1,000, of 100, and the rest."""
    at = 0
    for size in _BLOCKS:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size
    if at < len(rows):
        yield rows[at:]


@lru_cache(maxsize=256)
def _statement(dialect: str, table: str, columns: tuple[str, ...], count: int, suffix: str) -> str:
    width = len(columns)
    if dialect == "postgresql":
        numbers = iter(range(1, count * width + 1))
        values = [", ".join(f"${next(numbers)}" for _ in columns) for _ in range(count)]
    else:
        values = [", ".join("?" for _ in columns)] * count
    rows = ", ".join(f"({row})" for row in values)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {rows} {suffix}"  # noqa: S608
