"""What callers are told of a failed request."""

from __future__ import annotations

import logging

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.inference.errors import InferenceTimeout, ModelFailed
from tessera_kit.errors import Internal, TesseraError
from tessera_kit.rpc.status import DOMAIN, status_of

__all__ = ["failure_of", "public_status"]

_log = logging.getLogger(__name__)


def failure_of(error: Exception) -> TesseraError:
    """The failure as an error of the tree; what is not meant for callers goes to the log."""
    if isinstance(error, TesseraError):
        return error
    if isinstance(error, TimeoutError):
        return InferenceTimeout("the deadline passed before the model answered")
    _log.error("a request failed", exc_info=error)
    return Internal(repr(error))


def public_status(error: Exception) -> status_pb2.Status:
    """The status of a failure."""
    if isinstance(error, ModelFailed):
        # Not a defect of the platform: whoever asks a model may know how it failed.
        status = status_pb2.Status(
            code=grpc.StatusCode.INTERNAL.value[0], message=error.message[:1024]
        )
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
        return status
    return status_of(failure_of(error))
