"""Queries that run can be ended: by KILL QUERY with their client's id, or when that client goes.

The engine in process gives every query an id of its own and takes none. So a statement carries its
client's id as a comment at its end, which `system.processes` shows with its text.
"""

from __future__ import annotations

import re
from urllib.parse import quote

__all__ = ["kill_of", "killing", "marked"]

_OWN_ID = re.compile(rb"\bquery_id\s*=\s*'((?:[^'\\]|\\.|'')*)'", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)|''", re.DOTALL)


def marked(text: bytes, query_id: str) -> bytes:
    """A statement with the id at its end, where it moves no position that an error may name."""
    return text.rstrip(b" \t\r\n;") + b"\n" + _mark(query_id)


def killing(text: bytes) -> bytes:
    """A KILL statement whose `query_id = '…'` means the ids of clients beside the engine's own."""

    def either(found: re.Match[bytes]) -> bytes:
        literal = found.group(1).decode(errors="replace")
        query_id = _ESCAPED.sub(lambda escaped: escaped.group(1) or "'", literal)
        return b"(%b OR endsWith(query, '%b'))" % (found.group(), _mark(query_id))

    return _OWN_ID.sub(either, text)


def kill_of(query_id: str) -> bytes:
    """The statement that ends the query with a client's id; it does not wait for the end."""
    condition = b"endsWith(query, '%b')" % _mark(query_id)
    return b"KILL QUERY WHERE " + condition + b" ASYNC"


def _mark(query_id: str) -> bytes:
    # Quoted, so that no id ends the comment or the literal that it stands in.
    return f"/* query_id: {quote(query_id, safe=':')} */".encode()
