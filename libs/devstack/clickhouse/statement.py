"""Reads as much of a statement as HTTP needs: where an INSERT's data begins, which format.

The engine parses SQL; this only walks over its tokens, so that quotes, comments and brackets are
not mistaken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""
      (?P<skip> \s+ | --[^\n]* | \#[!\ ][^\n]* | /\*.*?\*/ )
    | (?P<quoted> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
    | (?P<heredoc> (\$[A-Za-z0-9_]*\$) .*? (?P=heredoc_tag) )
    | (?P<word> [A-Za-z_0-9\x80-\xff]+ )
    | (?P<other> . )
    """.replace(rb"(\$[A-Za-z0-9_]*\$)", rb"(?P<heredoc_tag>\$[A-Za-z0-9_]*\$)"),
    re.VERBOSE | re.DOTALL,
)
_WITHOUT_DATA = {b"SELECT", b"WITH", b"WATCH", b"FROM"}
_SESSION_WORDS = {b"SET", b"USE"}


@dataclass(frozen=True)
class Statement:
    """What is known of a statement without parsing it."""

    text: bytes
    """The statement itself; an INSERT's without `FORMAT` and data."""
    insert_format: str | None = None
    """The format of the data that follows an INSERT; None for every other statement."""
    data_offset: int = 0
    """Where that data begins in what was read."""
    output_format: str | None = None
    """The format that a query asks for in its text."""
    selects: bool = False
    """A SELECT, whose result can be had block by block."""
    kills: bool = False
    """A KILL, which must not wait behind what it is to end."""
    changes_session: bool = False
    """SET, USE or a temporary table: it leaves something behind on its connection."""


@dataclass(frozen=True)
class _Token:
    word: bytes
    start: int
    end: int


def read_statement(text: bytes) -> Statement:
    """Reads one statement; bytes after an INSERT's `FORMAT name` may be anything."""
    tokens = _top_level_words(text)
    first = next(tokens, None)
    if first is not None and first.word == b"INSERT":
        return _read_insert(text, tokens)
    output_format = None
    temporary = False
    previous = b""
    for token in tokens:
        if previous == b"FORMAT":
            output_format = text[token.start : token.end].decode()
        temporary = temporary or token.word == b"TEMPORARY"
        previous = token.word
    opening = first.word if first else b""
    changes = opening in _SESSION_WORDS or (opening in (b"CREATE", b"DROP") and temporary)
    selects = opening in (b"SELECT", b"WITH")
    return Statement(
        text,
        output_format=output_format,
        selects=selects,
        kills=opening == b"KILL",
        changes_session=changes,
    )


def _read_insert(text: bytes, tokens: Iterator[_Token]) -> Statement:
    for token in tokens:
        if token.word in _WITHOUT_DATA:
            return Statement(text)
        if token.word == b"VALUES":
            return Statement(text[: token.start], "Values", token.end)
        if token.word == b"FORMAT":
            name = next(tokens, None)
            if name is None:
                break
            head = text[: token.start]
            return Statement(
                head, text[name.start : name.end].decode(), _data_start(text, name.end)
            )
    return Statement(text, "Values", len(text))


def _data_start(text: bytes, offset: int) -> int:
    """Data begins after the format's name and the blanks, up to one line break, that follow it."""
    found = re.compile(rb"[ \t\f\v]*;?[ \t\f\v]*(\r?\n)?").match(text, offset)
    return found.end() if found else offset


def _top_level_words(text: bytes) -> Iterator[_Token]:
    """The words outside brackets and quotes, upper-cased."""
    depth = 0
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        if kind == "other":
            character = found.group()
            depth += (character in b"([{") - (character in b")]}")
        elif kind == "word" and depth == 0:
            yield _Token(found.group().upper(), found.start(), found.end())
