"""Messages that are written as one before them was are read without parsing them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from services.inference.domain.request_id import ID_CHARACTERS, ID_FIELD, ID_PARAMETER
from services.inference.sink.layouts import Layout

__all__ = ["Read", "Seen"]

_BYTES_FOLLOW: Final = 2
"""The wire type of texts, bytes and messages."""
_ID_NUMBER: Final = 3
_LARGEST_SHORT: Final = 127
"""The greatest number that protobuf writes in one byte."""
_ID, _RAW, _TOLD, _END = range(4)
"""What differs between messages: the caller's id, raw contents, the request's id as an answer tells
it; or nothing, as the message ends."""


class Read(NamedTuple):
    """What a message holds."""

    layout: Layout
    identifier: str
    parameters: dict[str, Any]
    raw: list[bytes]


class Seen:
    """How the last message of one origin was written, so that the next is read without parsing.

    The next message of the same caller differs from the last in its id, in its contents and, where
    it is an answer, in the request's id that it tells. All else is the same bytes at the same
    places; a message that is not exactly so is left to the parser.
    """

    __slots__ = ("_layout", "_parameters", "_parts")

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._parameters: dict[str, Any] = {}
        self._parts: list[tuple[bytes, int]] = []
        """What stays the same, each with the kind of what follows it."""

    def note(self, body: bytes, contents: int, layout: Layout, parameters: dict[str, Any]) -> None:
        """Remember a message that has raw contents.

        Args:
            body: The message.
            contents: The number of its field of raw contents, 1 to 15.
            layout: Its own.
            parameters: Its own.
        """
        self._layout, self._parameters = layout, parameters
        self._parts = _parts_of(body, contents << 3 | _BYTES_FOLLOW)
        known = self.read(body)
        # A parameter that comes behind the told id, and in another form, replaces it.
        if known is not None and known.parameters != parameters:
            self._layout = None

    def read(self, body: bytes) -> Read | None:
        """A message that is written as the last one was; None of others."""
        layout = self._layout
        if layout is None:
            return None
        raw: list[bytes] = []
        identifier, parameters, at = "", self._parameters, 0
        try:
            for same, kind in self._parts:
                if not body.startswith(same, at):
                    return None
                at += len(same)
                if kind == _RAW:
                    start, at = _bounds(body, at)
                    raw.append(body[start:at])
                elif kind == _TOLD:
                    start, at = at, at + ID_CHARACTERS
                    parameters = {**parameters, ID_PARAMETER: body[start:at].decode()}
                elif kind == _ID:
                    start, at = _bounds(body, at)
                    identifier = body[start:at].decode()
        except (IndexError, UnicodeDecodeError):
            return None
        return Read(layout, identifier, parameters, raw) if raw and at == len(body) else None


def _parts_of(body: bytes, raw_tag: int) -> list[tuple[bytes, int]]:
    """A message's parts for `Seen`; none where it has fields that are not known to the protocol."""
    kinds = {_ID_NUMBER << 3 | _BYTES_FOLLOW: _ID, raw_tag: _RAW}
    parts = []
    begin = at = 0
    while at < len(body):
        tag = body[at]
        if tag > _LARGEST_SHORT or tag & 7 != _BYTES_FOLLOW:
            return []
        _, end = _bounds(body, at + 1)
        if tag in kinds:
            parts.append((body[begin : at + 1], kinds[tag]))
            begin = end
        elif body.startswith(ID_FIELD, at):
            parts.append((body[begin : end - ID_CHARACTERS], _TOLD))
            begin = end
        at = end
    parts.append((body[begin:], _END))
    return parts


def _bounds(body: bytes, at: int) -> tuple[int, int]:
    """Where the value lies whose length is written at a place.

    Raises:
        IndexError: The body ends within the length.
    """
    size = body[at]
    at += 1
    if size > _LARGEST_SHORT:
        size, shift = size & _LARGEST_SHORT, 7
        while (more := body[at]) > _LARGEST_SHORT:
            size |= (more & _LARGEST_SHORT) << shift
            shift += 7
            at += 1
        size |= more << shift
        at += 1
    return at, at + size
