"""Tokens of pages: where the next one starts, and which listing it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from services.tracking.domain.search.paging import Position, read_position, write_position
from services.tracking.domain.search.syntax import OrderKey
from tessera_kit.errors import FieldViolation
from tessera_kit.rpc.pages import InvalidPageToken, decode_page_token, encode_page_token

__all__ = ["foreign_token", "position_at", "scope_of", "token_of"]

# What the contract lets a page token be.
_LONGEST_TOKEN: Final = 2048


def scope_of(*parts: object) -> str:
    """Return what a page token is good for: the search that these parts make up."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def token_of(position: Position, scope: str) -> str:
    """Return the token of the page that starts behind a position."""
    token = encode_page_token(write_position(position), scope)
    if len(token) <= _LONGEST_TOKEN:
        return token
    # Texts that were ordered by are too long to carry: the next call reads them again.
    return encode_page_token({"i": position.id}, scope)


async def position_at(
    token: str,
    scope: str,
    order: Sequence[OrderKey],
    place_of: Callable[[str], Awaitable[Position | None]],
) -> Position | None:
    """Return where the page of a token starts; None for the first page.

    Args:
        token: As `token_of` made it, or empty.
        scope: The search that it must be of.
        order: What is ordered by.
        place_of: Finds the position of what has an id; None where there is none for the caller.

    Raises:
        InvalidPageToken: This search did not make the token, or what it names is gone.
    """
    written = decode_page_token(token, scope)
    if not written:
        return None
    if "t" not in written:
        place = await place_of(str(written["i"]))
        if place is None:
            raise foreign_token()
        return place
    try:
        return read_position(written, order)
    except ValueError:
        raise foreign_token() from None


def foreign_token() -> InvalidPageToken:
    """Return the error of a token that no listing of ours made."""
    rule = "is not a token of this listing; start again from the first page"
    return InvalidPageToken(f"page_token {rule}", violations=[FieldViolation("page_token", rule)])
