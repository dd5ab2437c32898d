"""The one table between the error tree and gRPC: codes, and `google.rpc` details both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tessera_kit import errors
from tessera_kit.errors import FieldViolation, TesseraError

__all__ = [
    "DOMAIN",
    "INTERNAL_MESSAGE",
    "code_of",
    "error_from_rpc",
    "error_from_status",
    "status_of",
    "trailing_metadata_of",
]

DOMAIN: Final = "tessera"
"""`google.rpc.ErrorInfo.domain` of every error."""
INTERNAL_MESSAGE: Final = "an internal error happened; the server's log has the details"
"""What callers are told of a defect, whatever it was."""
DETAILS_KEY: Final = "grpc-status-details-bin"

CODES: Final[dict[type[TesseraError], grpc.StatusCode]] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
    TesseraError: grpc.StatusCode.INTERNAL,
}
_CATEGORIES: Final = {code: kind for kind, code in CODES.items() if kind is not TesseraError}
_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}

# Peers accept about 8 KiB of trailing metadata by default, and base64 adds a third.
_LONGEST_MESSAGE: Final = 1024
_LONGEST_DESCRIPTION: Final = 256
_MOST_DETAIL_BYTES: Final = 4096


def code_of(kind: type[TesseraError]) -> grpc.StatusCode:
    """Return the gRPC code of an error class: that of its nearest category."""
    for base in kind.__mro__:
        code = CODES.get(base)
        if code is not None:
            return code
    raise TypeError(f"{kind.__name__} is not a TesseraError")


def status_of(error: TesseraError) -> status_pb2.Status:
    """Return the error as `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo.

    An internal error keeps its text and metadata to itself. Details are cut to what peers accept as
    trailing metadata; the list of violations then ends early.
    """
    code = code_of(type(error))
    if code is grpc.StatusCode.INTERNAL:
        info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN)
        return status_pb2.Status(
            code=code.value[0], message=INTERNAL_MESSAGE, details=[_pack(info)]
        )
    status = status_pb2.Status(code=code.value[0], message=_cut(error.message, _LONGEST_MESSAGE))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    left = _MOST_DETAIL_BYTES
    for key, value in error.metadata.items():
        key, value = _cut(key, _LONGEST_DESCRIPTION), _cut(value, _LONGEST_DESCRIPTION)
        left -= len(key.encode()) + len(value.encode())
        if left < 0:
            break
        info.metadata[key] = value
    status.details.append(_pack(info))
    if error.violations:
        status.details.append(_pack(_bad_request(error.violations, left)))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(0, round(error.retry_after * 1000)))
        status.details.append(_pack(retry))
    return status


def _bad_request(
    violations: Iterable[FieldViolation], most_bytes: int
) -> error_details_pb2.BadRequest:
    bad = error_details_pb2.BadRequest()
    left = most_bytes
    for violation in violations:
        field = _cut(violation.field, _LONGEST_DESCRIPTION)
        description = _cut(violation.description, _LONGEST_DESCRIPTION)
        left -= len(field.encode()) + len(description.encode()) + 8
        if left < 0:
            break
        bad.field_violations.add(field=field, description=description)
    return bad


def _pack(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _cut(text: str, length: int) -> str:
    # A lone surrogate cannot travel as UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= length else text[: length - 1] + "…"


def trailing_metadata_of(status: status_pb2.Status) -> tuple[str, bytes]:
    """Return the metadata entry that carries the status's details."""
    return DETAILS_KEY, status.SerializeToString()


def error_from_status(status: status_pb2.Status) -> TesseraError:
    """Return the error that a status tells of: its category, with reason, metadata and violations.

    The peer's reason is kept in `metadata["reason"]`; no class is looked up by a peer's words.
    """
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    kind = _CATEGORIES.get(code, errors.Internal)
    metadata: dict[str, str] = {}
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        try:
            if detail.Unpack(info):
                metadata = {**info.metadata, "reason": info.reason}
            elif detail.Unpack(bad):
                violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        except (DecodeError, OverflowError):
            continue
    return kind(status.message, metadata=metadata, violations=violations, retry_after=retry_after)


def error_from_rpc(error: grpc.aio.AioRpcError) -> TesseraError:
    """Return what a failed call of ours tells, as an error of the tree."""
    status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                told = status_pb2.Status.FromString(value)
            except DecodeError:
                break
            if told.code == status.code:
                status = told
            break
    return error_from_status(status)
