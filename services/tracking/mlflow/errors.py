"""Between the error tree and MLflow's error codes: what clients raise as `MlflowException`."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.tracking.errors import AliasNotFound
from services.tracking.mlflow.not_offered import why_not_offered
from tessera_kit import errors
from tessera_kit.errors import InvalidArgument, OutOfRange, TesseraError, Unimplemented
from tessera_kit.http.status import (
    BodyTooLarge,
    MethodNotAllowed,
    PathNotFound,
    error_headers,
    http_status_of,
    json_response,
    public_message,
)

__all__ = [
    "BadRequest",
    "InvalidParameter",
    "NotOffered",
    "RangeNotSatisfiable",
    "WorkspacesDisabled",
    "mlflow_error",
]


class InvalidParameter(InvalidArgument):
    """A parameter of a request is missing or wrong; the text is MLflow's."""

    reason = "INVALID_PARAMETER"


class BadRequest(InvalidArgument):
    """The request is not what the protocol says, as a body that is not JSON."""

    reason = "BAD_REQUEST"


class RangeNotSatisfiable(OutOfRange):
    """The range begins behind the file's end."""

    reason = "RANGE_NOT_SATISFIABLE"


class NotOffered(Unimplemented):
    """MLflow has this method; this server does not."""

    reason = "NOT_OFFERED"

    def __init__(self, name: str) -> None:
        why = why_not_offered(name)
        text = f"{name} is not offered by this server"
        super().__init__(f"{text}: {why}" if why else text, metadata={"method": name})


class WorkspacesDisabled(Unimplemented):
    """The request is for a workspace; this server has none."""

    reason = "WORKSPACES_DISABLED"


# MLflow's codes, and the status where its own differs from the door's table.
_CODES: Final[dict[type[TesseraError], tuple[str, int | None]]] = {
    BadRequest: ("BAD_REQUEST", None),
    BodyTooLarge: ("BAD_REQUEST", None),
    MethodNotAllowed: ("BAD_REQUEST", None),
    RangeNotSatisfiable: ("INVALID_PARAMETER_VALUE", 416),
    PathNotFound: ("ENDPOINT_NOT_FOUND", None),
    AliasNotFound: ("INVALID_PARAMETER_VALUE", 400),
    # MLflow's own server says 500, which clients would try again.
    WorkspacesDisabled: ("FEATURE_DISABLED", 501),
    errors.InvalidArgument: ("INVALID_PARAMETER_VALUE", None),
    errors.NotFound: ("RESOURCE_DOES_NOT_EXIST", None),
    errors.AlreadyExists: ("RESOURCE_ALREADY_EXISTS", 400),
    errors.PermissionDenied: ("PERMISSION_DENIED", None),
    errors.Unauthenticated: ("UNAUTHENTICATED", None),
    errors.FailedPrecondition: ("INVALID_PARAMETER_VALUE", None),
    errors.Aborted: ("RESOURCE_CONFLICT", None),
    errors.ResourceExhausted: ("RESOURCE_EXHAUSTED", None),
    errors.Unavailable: ("TEMPORARILY_UNAVAILABLE", None),
    errors.DeadlineExceeded: ("DEADLINE_EXCEEDED", None),
    errors.Unimplemented: ("NOT_IMPLEMENTED", None),
    TesseraError: ("INTERNAL_ERROR", None),
}
# How MLflow classifies its codes beside: class and SQLSTATE; the other codes have neither.
_CLASSES: Final = {
    "BAD_REQUEST": ("INVALID_PARAMETER_VALUE", "KAM00"),
    "INVALID_PARAMETER_VALUE": ("INVALID_PARAMETER_VALUE", "KAM00"),
    "RESOURCE_ALREADY_EXISTS": ("RESOURCE_ALREADY_EXISTS", "KAM00"),
    "RESOURCE_DOES_NOT_EXIST": ("RESOURCE_NOT_FOUND", "KAM00"),
    "ENDPOINT_NOT_FOUND": ("RESOURCE_NOT_FOUND", "KAM00"),
    "PERMISSION_DENIED": ("PERMISSION_DENIED", "KAM00"),
    "TEMPORARILY_UNAVAILABLE": ("CLIENT_INTERNAL_ERROR", "XXM00"),
    "INTERNAL_ERROR": ("CLIENT_INTERNAL_ERROR", "XXM00"),
}


def mlflow_error(error: TesseraError, request: Request) -> Response:
    """Return the error as MLflow's servers write it: a code, a message, and how it is classed."""
    code, status = next(_CODES[base] for base in type(error).__mro__ if base in _CODES)
    told = {"error_code": code, "message": public_message(error)}
    if code in _CLASSES:
        told["error_class"], told["sqlstate"] = _CLASSES[code]
    return json_response(
        told,
        http_status_of(type(error)) if status is None else status,
        error_headers(error),
    )
