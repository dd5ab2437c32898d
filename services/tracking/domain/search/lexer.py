"""Cuts a filter into tokens, each with its place."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

__all__ = ["LexicalError", "Token", "TokenKind", "tokens"]


class TokenKind(enum.Enum):
    """What a token is."""

    NUMBER = "number"
    PATH = "path"
    """A kind and a key: text is `kind.key`, `kind` and `key` are set."""
    WORD = "word"
    """A bare word: a keyword, or the name of an attribute."""
    BACKTICKED = "backticked"
    DOUBLE_QUOTED = "double_quoted"
    SINGLE_QUOTED = "single_quoted"
    OPERATOR = "operator"
    PUNCTUATION = "punctuation"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """One token."""

    kind: TokenKind
    text: str
    """As it was written."""
    position: int
    """Where it starts, in characters from 1."""
    prefix: str = ""
    """The kind of a PATH."""
    value: str = ""
    """The key of a PATH, the content of what is quoted."""


class LexicalError(Exception):
    """The text holds something that is no token; `position` counts characters from 1."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


_QUOTED = r"""`(?:[^`]|``)*`|"(?:[^"]|"")*\""""
_TOKEN = re.compile(
    rf"""
    (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
  | (?P<path>(?P<prefix>[^\W\d]\w*)\.(?P<key>{_QUOTED}|[\w./:-]+))
  | (?P<word>[^\W\d]\w*)
  | (?P<backticked>`(?:[^`]|``)*`)
  | (?P<double_quoted>"(?:[^"]|"")*")
  | (?P<single_quoted>'(?:[^']|'')*')
  | (?P<operator><=|>=|!=|=|<|>)
  | (?P<punctuation>[(),])
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")


def tokens(text: str) -> list[Token]:
    """Return the tokens of `text`; the last one is END.

    Raises:
        LexicalError: A quote is not closed, or a character is no part of the grammar.
    """
    found: list[Token] = []
    at = _end_of_space(text, 0)
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise LexicalError(_problem(text[at]), at + 1)
        found.append(_token(match))
        at = _end_of_space(text, match.end())
    found.append(Token(TokenKind.END, "", len(text) + 1))
    return found


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _problem(character: str) -> str:
    if character in "'\"`":
        return f"the quote {character} is not closed"
    return f"unexpected character {character!r}"


def _token(match: re.Match[str]) -> Token:
    position = match.start() + 1
    text = match.group()
    if match["path"] is not None:
        return Token(TokenKind.PATH, text, position, match["prefix"], unquoted(match["key"]))
    kind = next(kind for kind in TokenKind if match.groupdict().get(kind.value) is not None)
    return Token(kind, text, position, value=unquoted(text))


def unquoted(text: str) -> str:
    """Return what stands between quotes, doubled ones single; `text` itself when it has none."""
    if len(text) >= 2 and text[0] in "'\"`" and text[-1] == text[0]:
        return text[1:-1].replace(text[0] * 2, text[0])
    return text
