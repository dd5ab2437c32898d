"""Passing failures of a SQL database in our categories.

Unavailable
└── DatabaseUnavailable   busy, restarting, or it rolled the transaction back for another's sake

Everything else keeps SQLAlchemy's type: a broken constraint is the adapter's to judge, and what is
left is a defect. So those above the store tell errors that pass from errors that stay without
knowing which database there is.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from tessera_kit.errors import Unavailable

__all__ = ["DatabaseUnavailable", "WaitingPool", "passes", "translate_errors"]

# SQLSTATE classes and codes of PostgreSQL that name a passing state of the server or of its locks:
# connection exceptions, rolled back transactions, lack of resources, operator intervention.
_PASSING_SQLSTATES = ("08", "40", "53", "57P", "55P03")
_PASSING_SQLITE_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class DatabaseUnavailable(Unavailable):
    """The database cannot do it now; the transaction is rolled back and may be tried again."""

    reason = "DATABASE_UNAVAILABLE"


class WaitingPool(AsyncAdaptedQueuePool):
    """A pool whose connections were all busy for too long says so in our categories."""

    def connect(self) -> PoolProxiedConnection:
        """Take a connection.

        Raises:
            DatabaseUnavailable: None became free in time.
        """
        try:
            return super().connect()
        except PoolTimeout as error:
            raise DatabaseUnavailable("every connection to the database is busy") from error


def translate_errors(engine: Engine) -> None:
    """Make an engine raise `DatabaseUnavailable` for failures that pass by themselves."""

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> None:
        # A failed ping is the pool's own: it opens another connection. A cancellation, after which
        # the connection is given up too, is no error and must go on as it is.
        if context.is_pre_ping or not isinstance(context.original_exception, Exception):
            return
        if context.is_disconnect or passes(context.original_exception):
            raise DatabaseUnavailable("the database is not available now")


def passes(error: BaseException) -> bool:
    """Whether a driver's error names a state of the database that passes by itself."""
    if isinstance(error, sqlite3.OperationalError):
        # The low byte is the primary code; the rest says more.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING_SQLITE_CODES
    return str(getattr(error, "sqlstate", None) or "").startswith(_PASSING_SQLSTATES)
