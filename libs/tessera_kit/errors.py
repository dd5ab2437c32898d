"""The one error tree. Every failure that a caller may see is one of these.

    TesseraError
    ├── InvalidArgument       the request is wrong whatever the state of the system
    │   └── OutOfRange        a position beyond what exists now
    ├── NotFound              no such thing (or the caller may not know that there is)
    ├── AlreadyExists         the name is taken
    ├── PermissionDenied      the caller is known and lacks a grant
    ├── Unauthenticated       the caller is not known
    ├── FailedPrecondition    the system's state forbids it; retrying does not help
    ├── Aborted               somebody else was faster (an etag mismatch); read again, then retry
    ├── ResourceExhausted     a quota or limit (retryable)
    ├── Unavailable           not now; the same request may succeed soon (retryable)
    ├── DeadlineExceeded      time ran out before the work was done
    ├── Unimplemented         not offered here
    └── Internal              a defect of ours; its text never leaves the process

A service subclasses a category and names the reason:
`class ModelNotFound(NotFound): reason = "MODEL_NOT_FOUND"`.
`tessera_kit.rpc.status` holds the one table from these categories to gRPC codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "TesseraError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request."""

    field: str
    """Path of the field from the request's root, as `metrics[3].key`."""
    description: str
    """What is wrong with it, as a sentence that a person can act on."""


class TesseraError(Exception):
    """A failure with a stable reason and a text that is fit for the caller.

    Args:
        message: What went wrong, for the caller. No secrets and no internal names.
        metadata: Facts for programs, such as the name that was not found.
        violations: The wrong fields, where the request itself is at fault.
        retry_after: Seconds to wait before the same request is worth sending again.
    """

    reason: ClassVar[str] = "INTERNAL"
    """UPPER_SNAKE_CASE identifier, stable across versions (google.rpc.ErrorInfo.reason)."""
    retryable: ClassVar[bool] = False
    """Whether the unchanged request may succeed when it is sent again."""

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.retry_after = retry_after


class InvalidArgument(TesseraError):
    """The request is wrong whatever the state of the system; `violations` name the fields."""

    reason = "INVALID_ARGUMENT"


class OutOfRange(InvalidArgument):
    """The request reaches past what exists now, as an offset beyond the end."""

    reason = "OUT_OF_RANGE"


class NotFound(TesseraError):
    """No such thing, or the caller may not know that there is."""

    reason = "NOT_FOUND"


class AlreadyExists(TesseraError):
    """The name is taken."""

    reason = "ALREADY_EXISTS"


class PermissionDenied(TesseraError):
    """The caller is known and lacks a grant; the message says which."""

    reason = "PERMISSION_DENIED"


class Unauthenticated(TesseraError):
    """The caller sent no token, or one that is unknown, expired or revoked."""

    reason = "UNAUTHENTICATED"


class FailedPrecondition(TesseraError):
    """The system's state forbids it, as deleting what is in use; retrying alone does not help."""

    reason = "FAILED_PRECONDITION"


class Aborted(TesseraError):
    """Another writer was faster: the request's etag is stale. Read again, then retry."""

    reason = "ABORTED"


class ResourceExhausted(TesseraError):
    """A quota, rate or size limit was reached."""

    reason = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(TesseraError):
    """Not now: a part that is needed does not answer. The same request may succeed soon."""

    reason = "UNAVAILABLE"
    retryable = True


class DeadlineExceeded(TesseraError):
    """Time ran out before the work was done; it may still have happened."""

    reason = "DEADLINE_EXCEEDED"


class Unimplemented(TesseraError):
    """Not offered by this server."""

    reason = "UNIMPLEMENTED"


class Internal(TesseraError):
    """A defect of ours. Its message goes to the log; callers get a constant text."""

    reason = "INTERNAL"
