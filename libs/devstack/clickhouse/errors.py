"""ClickHouse's exceptions on its HTTP interface: code, name, text and HTTP status."""

from __future__ import annotations

import re

# The codes that this server raises itself (names as in ClickHouse's ErrorCodes.cpp).
UNKNOWN_FORMAT = 73
NOT_IMPLEMENTED = 48
BAD_ARGUMENTS = 36
SYNTAX_ERROR = 62
READONLY = 164
TOO_MANY_SIMULTANEOUS_QUERIES = 202
UNKNOWN_COMPRESSION_METHOD = 89
AUTHENTICATION_FAILED = 516

# HTTPHandler::exceptionCodeToHTTPStatus of ClickHouse, by code.
_STATUS = {
    194: 401,  # REQUIRED_PASSWORD
    **dict.fromkeys((192, 193, AUTHENTICATION_FAILED, 497, 291, READONLY), 403),
    **dict.fromkeys(
        (6, 26, 27, 33, 36, 38, 41, 42, 43, 53, 62, 69, 70, 72, 89, 117, 130, 349, 351, 456, 457),
        400,
    ),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 124), 404),
    159: 408,  # TIMEOUT_EXCEEDED
    48: 501,  # NOT_IMPLEMENTED
    **dict.fromkeys((76, 209, 439, TOO_MANY_SIMULTANEOUS_QUERIES), 503),
    241: 507,  # MEMORY_LIMIT_EXCEEDED
}
_CODE = re.compile(r"Code: (\d+)\. ")


class QueryError(Exception):
    """A query failed; `str()` is the text that ClickHouse sends."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @classmethod
    def own(cls, code: int, name: str, message: str) -> QueryError:
        """An error that this server found itself, in the form of the engine's errors."""
        return cls(code, f"Code: {code}. DB::Exception: {message}. ({name})")

    @classmethod
    def of_engine(cls, error: Exception) -> QueryError:
        """The engine's error, without the words that chDB puts before ClickHouse's text."""
        text = str(error)
        found = _CODE.search(text)
        if found is None:
            return cls(1001, f"Code: 1001. DB::Exception: {text} (STD_EXCEPTION)")
        return cls(int(found.group(1)), text[found.start() :])

    @property
    def status(self) -> int:
        """The HTTP status for the code; 500 where ClickHouse has no better one."""
        return _STATUS.get(self.code, 500)
