"""A SQLite connection for asyncio that crosses to its thread once per statement.

SQLAlchemy's adapter asks aiosqlite four things per statement (make a cursor, execute, fetch all,
close), and each is a trip to the connection's thread and back. Here the cursor does all four in one
trip, and a rollback with nothing to roll back makes none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar, cast

import aiosqlite

__all__ = ["InTransaction", "SqliteConnection", "connect"]

T = TypeVar("T")


async def connect(database: str, **arguments: Any) -> SqliteConnection:
    """Open a connection; pass it to SQLAlchemy as `async_creator_fn`."""

    def connector() -> sqlite3.Connection:
        return cast("sqlite3.Connection", sqlite3.connect(database, **arguments))

    connection = SqliteConnection(connector, iter_chunk_size=64)
    # The process may end while a connection is open.
    connection._thread.daemon = True
    await connection
    return connection


class InTransaction(Exception):
    """The connection has a transaction open that is another's."""


class SqliteConnection(aiosqlite.Connection):
    """A connection whose cursors make one trip."""

    @property
    def is_open(self) -> bool:
        """Whether it takes work."""
        return self._running and self._connection is not None

    def cursor(self) -> SqliteCursor:  # type: ignore[override]  # awaited and closed as aiosqlite's is
        """Return a cursor; it has nothing in the connection's thread until it executes."""
        return SqliteCursor(self)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the connection's thread, with the connection: one trip for many statements.

        Transactions that it begins it must end.
        """
        return cast("T", await self._in_thread(work))

    async def run_between(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, for a connection that others use too: between their transactions.

        What `work` leaves open is rolled back.

        Raises:
            InTransaction: Such a transaction is under way; nothing was done.
        """
        return cast("T", await self._in_thread(partial(_between, work)))

    async def rollback(self) -> None:
        """Roll back what is open, if anything is."""
        if self.in_transaction:
            await super().rollback()

    async def _in_thread(self, work: Callable[[sqlite3.Connection], object]) -> object:
        execute = cast("Callable[..., Awaitable[object]]", self._execute)
        return await execute(work, self._conn)


class SqliteCursor:
    """Executes a statement and keeps what came of it, rows included."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self._next = 0
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Self:
        """Execute one statement and fetch its rows."""
        return await self._run("execute", statement, parameters)

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> Self:
        """Execute one statement per tuple of parameters."""
        return await self._run("executemany", statement, parameters)

    async def fetchone(self) -> Any:
        """Return the next row; None behind the last one."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows."""
        end = self._next + (self.arraysize if size is None else size)
        rows, self._next = self._rows[self._next : end], min(end, len(self._rows))
        return rows

    async def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        rows, self._rows, self._next = self._rows[self._next :], [], 0
        return rows

    async def close(self) -> None:
        """Forget the rows; the cursor in the thread was closed when it had given them."""
        self._rows, self._next = [], 0

    async def _run(self, method: str, statement: str, parameters: Sequence[Any]) -> Self:
        answer = await self._connection.run(
            lambda connection: _execute(connection, method, statement, parameters)
        )
        self.description, self.rowcount, self.lastrowid, self._rows = answer
        self._next = 0
        return self


def _between(
    work: Callable[[sqlite3.Connection], object], connection: sqlite3.Connection
) -> object:
    if connection.in_transaction:
        raise InTransaction
    try:
        return work(connection)
    finally:
        if connection.in_transaction:
            connection.rollback()


def _execute(
    connection: sqlite3.Connection, method: str, statement: str, parameters: Sequence[Any]
) -> tuple[Any, int, int | None, list[Any]]:
    cursor = connection.cursor()
    try:
        getattr(cursor, method)(statement, parameters)
        rows = cursor.fetchall() if cursor.description is not None else []
        return cursor.description, cursor.rowcount, cursor.lastrowid, rows
    finally:
        cursor.close()
