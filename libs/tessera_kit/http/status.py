"""The one table between the error tree and HTTP: statuses, headers and the body of an error."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from tessera_kit import errors
from tessera_kit.errors import InvalidArgument, NotFound, TesseraError, Unimplemented
from tessera_kit.rpc.status import INTERNAL_MESSAGE, code_of

__all__ = [
    "BodyTooLarge",
    "MethodNotAllowed",
    "PathNotFound",
    "error_headers",
    "error_response",
    "http_status_of",
    "json_response",
    "public_message",
]


class BodyTooLarge(InvalidArgument):
    """The request's body has more bytes than the route takes."""

    reason = "BODY_TOO_LARGE"


class PathNotFound(NotFound):
    """No route has this path."""

    reason = "PATH_NOT_FOUND"


class MethodNotAllowed(Unimplemented):
    """The path is there, without this method; `metadata["allow"]` lists those it has."""

    reason = "METHOD_NOT_ALLOWED"


STATUSES: Final[dict[type[TesseraError], HTTPStatus]] = {
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.InvalidArgument: HTTPStatus.BAD_REQUEST,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.AlreadyExists: HTTPStatus.CONFLICT,
    errors.PermissionDenied: HTTPStatus.FORBIDDEN,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.FailedPrecondition: HTTPStatus.BAD_REQUEST,
    errors.Aborted: HTTPStatus.CONFLICT,
    errors.ResourceExhausted: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.Unimplemented: HTTPStatus.NOT_IMPLEMENTED,
    errors.Internal: HTTPStatus.INTERNAL_SERVER_ERROR,
    TesseraError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def http_status_of(kind: type[TesseraError]) -> HTTPStatus:
    """Return the status of an error class: that of its nearest category."""
    for base in kind.__mro__:
        status = STATUSES.get(base)
        if status is not None:
            return status
    raise TypeError(f"{kind.__name__} is not a TesseraError")


def public_message(error: TesseraError) -> str:
    """Return what the caller may read: a defect of ours keeps its text to itself."""
    if http_status_of(type(error)) is HTTPStatus.INTERNAL_SERVER_ERROR:
        return INTERNAL_MESSAGE
    return error.message


def error_headers(error: TesseraError) -> dict[str, str]:
    """Return the headers of an error: how to sign in, when to try again, what to use."""
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="tessera", Basic realm="tessera"'
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.metadata["allow"]
    return headers


def error_response(error: TesseraError, request: Request) -> Response:
    """Return the error as JSON: `{"error": {"code", "reason", "message", ...}}`.

    A door whose protocol has errors of its own brings another renderer (see `HttpRoute.render`).
    """
    told: dict[str, Any] = {
        "code": code_of(type(error)).name,
        "reason": error.reason,
        "message": public_message(error),
    }
    if error.violations:
        told["violations"] = [
            {"field": one.field, "description": one.description} for one in error.violations
        ]
    return json_response({"error": told}, http_status_of(type(error)), error_headers(error))


def json_response(
    content: object, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """Return a response with a JSON body."""
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")
