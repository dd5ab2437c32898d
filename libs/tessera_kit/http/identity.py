"""The token in a request's headers: as a bearer's, or as the password of basic authentication."""

from __future__ import annotations

import base64
import binascii

from tessera_kit.rpc.identity import InvalidCredentials, MissingCredentials, bearer_token

__all__ = ["request_token"]

_BASIC = "basic "
_LONGEST = 8192


def request_token(authorization: str | None) -> str:
    """Return the token of an `authorization` header.

    Clients that know only a user name and a password send the token as the password; the user name
    is not looked at, for the token tells who calls.

    Raises:
        MissingCredentials: There is no header.
        InvalidCredentials: It is neither a bearer token nor a user name and password.
    """
    if authorization is None:
        raise MissingCredentials(
            "send a token: `Authorization: Bearer <token>`, or basic with it as the password"
        )
    if authorization[: len(_BASIC)].lower() != _BASIC:
        return bearer_token((("authorization", authorization),))
    if len(authorization) > _LONGEST:
        raise InvalidCredentials("the authorization header is too long")
    try:
        pair = base64.b64decode(authorization[len(_BASIC) :].strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidCredentials("the authorization header is not basic authentication") from None
    _, _, password = pair.partition(":")
    return bearer_token((("authorization", f"Bearer {password}"),))
