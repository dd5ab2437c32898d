"""Page sizes and page tokens of every listing (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import orjson

from tessera_kit.errors import FieldViolation, InvalidArgument

__all__ = ["InvalidPageToken", "decode_page_token", "encode_page_token", "page_size"]

_DIGEST_BYTES = 8
_LONGEST_TOKEN = 4096


class InvalidPageToken(InvalidArgument):
    """The token was not made by the listing, filter and order that it was sent to."""

    reason = "INVALID_PAGE_TOKEN"


def page_size(requested: int, default: int = 100, maximum: int = 1000) -> int:
    """Return how many items a page holds: `default` for 0, at most `maximum`.

    Raises:
        InvalidArgument: `requested` is negative.
    """
    if requested < 0:
        rule = "must not be negative"
        raise InvalidArgument(f"page_size {rule}", violations=[FieldViolation("page_size", rule)])
    return min(requested or default, maximum)


def encode_page_token(position: Mapping[str, str | int], scope: str) -> str:
    """Return an opaque URL-safe token for the place where the next page starts.

    Args:
        position: The last item's sort keys; 64-bit integers and texts.
        scope: What the token is good for: the listing with its parent, filter and order.

    The token is not secret and proves nothing: treat what comes back like any other input.
    """
    payload = orjson.dumps(dict(position), option=orjson.OPT_SORT_KEYS)
    return base64.urlsafe_b64encode(_digest(payload, scope) + payload).rstrip(b"=").decode()


def decode_page_token(token: str, scope: str) -> dict[str, str | int]:
    """Return the position that `encode_page_token` was given; empty for the empty token.

    Raises:
        InvalidPageToken: The token is damaged or was made for another scope.
    """
    if not token:
        return {}
    try:
        if len(token) > _LONGEST_TOKEN:
            raise ValueError("too long")
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest != _digest(payload, scope):
            raise ValueError("foreign")
        position = orjson.loads(payload)
    except (ValueError, binascii.Error):
        rule = "is not a token of this listing; start again from the first page"
        violations = [FieldViolation("page_token", rule)]
        raise InvalidPageToken(f"page_token {rule}", violations=violations) from None
    return {str(key): value for key, value in position.items()}


def _digest(payload: bytes, scope: str) -> bytes:
    key = hashlib.blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES, key=key).digest()
