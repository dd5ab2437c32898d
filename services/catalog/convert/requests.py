"""What requests have in common: their ids and the places that page tokens hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message

from services.catalog.handlers.requests import RequestKey
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["number_of", "page_token", "place_of", "request_key", "text_of"]


def request_key(request: Message, *, free: Sequence[str] = ()) -> RequestKey:
    """What tells a repeated request from another one; the request has a `request_id`.

    Args:
        request: With a `request_id`.
        free: Names of fields that may differ when it is repeated; the first one's count.
    """
    request_id: str = getattr(request, "request_id")  # noqa: B009
    if not request_id:
        return RequestKey(request.DESCRIPTOR.name)
    told = type(request)()
    told.CopyFrom(request)
    for field in free:
        told.ClearField(field)
    content = told.SerializeToString(deterministic=True)
    return RequestKey(request.DESCRIPTOR.name, request_id, hashlib.sha256(content).digest())


def page_token(scope: str, *place: str | int) -> str:
    """The token of the page that starts after a place."""
    return encode_page_token({str(index): part for index, part in enumerate(place)}, scope)


def place_of(token: str, scope: str) -> list[str | int]:
    """The place that a token holds; empty for the first page.

    Raises:
        tessera_kit.rpc.pages.InvalidPageToken: It is not one of this listing.
    """
    found = decode_page_token(token, scope)
    return [found[key] for key in sorted(found, key=int)]


def text_of(place: list[str | int], index: int = 0) -> str:
    """A text of a place; empty on the first page."""
    return str(place[index]) if place else ""


def number_of(place: list[str | int], index: int = 0) -> int | None:
    """A number of a place; None on the first page."""
    return int(place[index]) if place else None
