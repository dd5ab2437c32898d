"""How errors are written: as the Open Inference Protocol's REST form has them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from services.inference.errors import ModelFailed
from services.inference.gateway.infer import REQUEST_ID_KEY
from services.inference.rest.answering import request_id_of
from tessera_kit.errors import TesseraError
from tessera_kit.http.status import (
    error_headers,
    http_status_of,
    json_response,
    public_message,
)

__all__ = ["error_head", "oip_error"]


def error_head(error: TesseraError, request: Request) -> tuple[HTTPStatus, dict[str, str], str]:
    """The status, headers and text of an error on the gateway."""
    headers = error_headers(error)
    if identifier := request_id_of(request):
        headers[REQUEST_ID_KEY] = identifier
    # Not a defect of the platform: whoever asks a model may know how it failed.
    text = error.message[:1024] if isinstance(error, ModelFailed) else public_message(error)
    return http_status_of(type(error)), headers, text


def oip_error(error: TesseraError, request: Request) -> Response:
    """Return the error as `{"error": text, "reason": ..., "violations": [...]}`."""
    status, headers, text = error_head(error, request)
    told: dict[str, Any] = {"error": text, "reason": error.reason}
    if error.violations:
        told["violations"] = [
            {"field": one.field, "description": one.description} for one in error.violations
        ]
    return json_response(told, status, headers)
