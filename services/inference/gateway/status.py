"""What callers are told of a failed request."""

from __future__ import annotations

import logging

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.inference.errors import InferenceTimeout, ModelFailed
from tessera_kit.errors import Internal, TesseraError
from tessera_kit.rpc.status import DOMAIN, status_of

__all__ = ["public_status"]

_log = logging.getLogger(__name__)


def public_status(error: Exception) -> status_pb2.Status:
    """The status of a failure; what is not meant for callers goes to the log."""
    if isinstance(error, ModelFailed):
        # Not a defect of the platform: whoever asks a model may know how it failed.
        status = status_pb2.Status(
            code=grpc.StatusCode.INTERNAL.value[0], message=error.message[:1024]
        )
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
        return status
    if isinstance(error, TesseraError):
        return status_of(error)
    if isinstance(error, TimeoutError):
        return status_of(InferenceTimeout("the deadline passed before the model answered"))
    _log.error("a request failed", exc_info=error)
    return status_of(Internal(repr(error)))
