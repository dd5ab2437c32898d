"""ClickHouse's errors in our categories.

Unavailable
└── ClickHouseUnavailable   no answer, or too busy to answer
NotFound
└── TableNotFound           no such table, database or column
AlreadyExists
└── TableExists             the table or database exists
InvalidArgument
└── QueryRejected           the SQL or a value is wrong
ResourceExhausted
└── QueryTooLarge           more memory, rows or time than it may have
Internal
└── ClickHouseFailure       anything else
"""

from __future__ import annotations

import re
from typing import ClassVar

from clickhouse_connect.driver.exceptions import ClickHouseError as DriverError
from clickhouse_connect.driver.exceptions import (
    DataError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)

from tessera_kit.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TesseraError,
    Unavailable,
)

__all__ = [
    "ClickHouseFailure",
    "ClickHouseUnavailable",
    "QueryRejected",
    "QueryTooLarge",
    "TableExists",
    "TableNotFound",
    "translated",
]


class ClickHouseUnavailable(Unavailable):
    """The server does not answer or is too busy; a write may or may not have happened."""

    reason = "CLICKHOUSE_UNAVAILABLE"


class TableNotFound(NotFound):
    """There is no such table, database or column."""

    reason = "TABLE_NOT_FOUND"


class TableExists(AlreadyExists):
    """The table or database exists."""

    reason = "TABLE_EXISTS"


class QueryRejected(InvalidArgument):
    """The SQL or a value is wrong; nothing was changed."""

    reason = "QUERY_REJECTED"


class QueryTooLarge(ResourceExhausted):
    """The query needs more memory, rows or time than it may have."""

    reason = "QUERY_TOO_LARGE"
    # The same query would fail the same way.
    retryable: ClassVar[bool] = False


class ClickHouseFailure(Internal):
    """The server failed in a way that is not the caller's fault."""

    reason = "CLICKHOUSE_FAILURE"


# https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
_CATEGORIES: dict[type[TesseraError], frozenset[int]] = {
    ClickHouseUnavailable: frozenset(
        {
            198,  # DNS_ERROR
            202,  # TOO_MANY_SIMULTANEOUS_QUERIES
            209,  # SOCKET_TIMEOUT
            210,  # NETWORK_ERROR
            236,  # ABORTED
            242,  # TABLE_IS_READ_ONLY
            243,  # NOT_ENOUGH_SPACE
            252,  # TOO_MANY_PARTS
            279,  # ALL_CONNECTION_TRIES_FAILED
            319,  # UNKNOWN_STATUS_OF_INSERT
            394,  # QUERY_WAS_CANCELLED
            439,  # CANNOT_SCHEDULE_TASK
            473,  # DEADLOCK_AVOIDED
            999,  # KEEPER_EXCEPTION
        }
    ),
    TableNotFound: frozenset(
        {16, 60, 81}
    ),  # NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_TABLE, UNKNOWN_DATABASE
    TableExists: frozenset({57, 82}),  # TABLE_ALREADY_EXISTS, DATABASE_ALREADY_EXISTS
    QueryTooLarge: frozenset(
        {
            158,  # TOO_MANY_ROWS
            159,  # TIMEOUT_EXCEEDED
            160,  # TOO_SLOW
            161,  # TOO_MANY_COLUMNS
            241,  # MEMORY_LIMIT_EXCEEDED
            307,  # TOO_MANY_BYTES
            396,  # TOO_MANY_ROWS_OR_BYTES
        }
    ),
    QueryRejected: frozenset(
        {
            6,  # CANNOT_PARSE_TEXT
            8,  # THERE_IS_NO_COLUMN
            10,  # NOT_FOUND_COLUMN_IN_BLOCK
            20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
            25,  # CANNOT_PARSE_ESCAPE_SEQUENCE
            26,  # CANNOT_PARSE_QUOTED_STRING
            27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
            33,  # CANNOT_READ_ALL_DATA
            36,  # BAD_ARGUMENTS
            38,  # CANNOT_PARSE_DATE
            41,  # CANNOT_PARSE_DATETIME
            42,  # NUMBER_OF_ARGUMENTS_DOESNT_MATCH
            43,  # ILLEGAL_TYPE_OF_ARGUMENT
            44,  # ILLEGAL_COLUMN
            46,  # UNKNOWN_FUNCTION
            47,  # UNKNOWN_IDENTIFIER
            50,  # UNKNOWN_TYPE
            53,  # TYPE_MISMATCH
            62,  # SYNTAX_ERROR
            69,  # ARGUMENT_OUT_OF_BOUND
            70,  # CANNOT_CONVERT_TYPE
            72,  # CANNOT_PARSE_NUMBER
            73,  # UNKNOWN_FORMAT
            115,  # UNKNOWN_SETTING
            117,  # INCORRECT_DATA
            130,  # CANNOT_READ_ARRAY_FROM_TEXT
            131,  # TOO_LARGE_STRING_SIZE
            153,  # ILLEGAL_DIVISION
            179,  # MULTIPLE_EXPRESSIONS_FOR_ALIAS
            184,  # ILLEGAL_AGGREGATION
            190,  # SIZES_OF_ARRAYS_DONT_MATCH
            215,  # NOT_AN_AGGREGATE
            349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
            352,  # AMBIGUOUS_COLUMN_NAME
            386,  # NO_COMMON_TYPE
            407,  # DECIMAL_OVERFLOW
            456,  # UNKNOWN_QUERY_PARAMETER
            457,  # BAD_QUERY_PARAMETER
            636,  # CANNOT_EXTRACT_TABLE_STRUCTURE
            691,  # UNKNOWN_ELEMENT_OF_ENUM
        }
    ),
}
_BY_CODE = {code: category for category, codes in _CATEGORIES.items() for code in codes}
_LONGEST_MESSAGE = 1000
_VERSION = re.compile(r"\s*\(version (?:[^()]|\([^()]*\))*\)\s*(?:\(for url .*\))?\s*$")


def translated(error: DriverError) -> TesseraError:
    """The driver's error in our tree, with the server's code and name as metadata."""
    code = getattr(error, "code", None)
    name = getattr(error, "name", None)
    category = _BY_CODE.get(code) if code is not None else None
    if category is None:
        category = _without_code(error) if code is None else ClickHouseFailure
    metadata = {"code": str(code), "name": str(name)} if code is not None else {}
    if category is ClickHouseUnavailable and code is None:
        # The driver's text would name hosts and ports.
        return ClickHouseUnavailable("ClickHouse does not answer")
    text = str(error).rpartition("DB::Exception: ")[2]
    return category(_VERSION.sub("", text)[:_LONGEST_MESSAGE], metadata=metadata)


def _without_code(error: DriverError) -> type[TesseraError]:
    """The category of what the driver itself raised."""
    if isinstance(error, DataError | ProgrammingError | NotSupportedError):
        return QueryRejected
    if isinstance(error, OperationalError | InterfaceError):
        return ClickHouseUnavailable
    return ClickHouseFailure
