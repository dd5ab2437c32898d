"""How errors are written: as the Open Inference Protocol's REST form has them, and as MLflow."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from services.inference.errors import ModelFailed, UnsupportedMedia
from services.inference.gateway.infer import REQUEST_ID_KEY
from services.inference.rest.answering import request_id_of
from tessera_kit import errors
from tessera_kit.errors import TesseraError
from tessera_kit.http.status import (
    error_headers,
    http_status_of,
    json_response,
    public_message,
)

__all__ = ["oip_error", "scoring_error"]

# MLflow's codes, and the status where its own differs from the door's table.
_SCORING_CODES: Final[dict[type[TesseraError], tuple[str, int | None]]] = {
    UnsupportedMedia: ("BAD_REQUEST", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    errors.InvalidArgument: ("BAD_REQUEST", None),
    errors.NotFound: ("RESOURCE_DOES_NOT_EXIST", None),
    errors.PermissionDenied: ("PERMISSION_DENIED", None),
    errors.Unauthenticated: ("UNAUTHENTICATED", None),
    errors.FailedPrecondition: ("BAD_REQUEST", None),
    errors.ResourceExhausted: ("REQUEST_LIMIT_EXCEEDED", None),
    errors.Unavailable: ("TEMPORARILY_UNAVAILABLE", None),
    errors.DeadlineExceeded: ("DEADLINE_EXCEEDED", None),
    errors.Unimplemented: ("NOT_IMPLEMENTED", None),
    TesseraError: ("INTERNAL_ERROR", None),
}


def _error_head(error: TesseraError, request: Request) -> tuple[HTTPStatus, dict[str, str], str]:
    """The status, headers and text of an error on the gateway."""
    headers = error_headers(error)
    if identifier := request_id_of(request):
        headers[REQUEST_ID_KEY] = identifier
    # Not a defect of the platform: whoever asks a model may know how it failed.
    text = error.message[:1024] if isinstance(error, ModelFailed) else public_message(error)
    return http_status_of(type(error)), headers, text


def oip_error(error: TesseraError, request: Request) -> Response:
    """Return the error as `{"error": text, "reason": ..., "violations": [...]}`."""
    status, headers, text = _error_head(error, request)
    told: dict[str, Any] = {"error": text, "reason": error.reason}
    if error.violations:
        told["violations"] = [
            {"field": one.field, "description": one.description} for one in error.violations
        ]
    return json_response(told, status, headers)


def scoring_error(error: TesseraError, request: Request) -> Response:
    """Return the error as MLflow's scoring servers write it: `{"error_code", "message"}`."""
    status, headers, text = _error_head(error, request)
    code, own = next(_SCORING_CODES[base] for base in type(error).__mro__ if base in _SCORING_CODES)
    return json_response({"error_code": code, "message": text}, own or status, headers)
