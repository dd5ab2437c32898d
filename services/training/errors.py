"""What callers of training may be told.

    InvalidArgument
    ├── InvalidJob            the specification cannot be run
    └── InvalidPath           a checkpoint path that leaves its checkpoint
    NotFound
    ├── JobNotFound
    ├── AttemptNotFound
    ├── TriggerNotFound
    └── CheckpointNotFound    no such complete checkpoint, or no such file in it
    AlreadyExists
    ├── TriggerExists
    └── RequestReused         a request id that came with another specification before
    FailedPrecondition
    ├── JobNotRunning         a report for a job that has no processes
    ├── AttemptSuperseded     a report of an attempt that is over
    ├── CheckpointComplete    a file for a checkpoint that is complete already
    ├── CheckpointEmpty       a commit without files
    └── WrongModel            a version of another model than the job's, or of another run
    ResourceExhausted
    └── CheckpointTooLarge
    Aborted
    └── StaleJob              somebody else stored a change first (handlers apply theirs again)

Sources that cannot be fetched raise SourceRefused (never) or SourceUnavailable (not now); they end
an attempt and reach no caller.
"""

from __future__ import annotations

from tessera_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)

__all__ = [
    "AttemptNotFound",
    "AttemptSuperseded",
    "CheckpointComplete",
    "CheckpointEmpty",
    "CheckpointNotFound",
    "CheckpointTooLarge",
    "InvalidJob",
    "InvalidPath",
    "JobNotFound",
    "JobNotRunning",
    "RequestReused",
    "SourceRefused",
    "SourceUnavailable",
    "StaleJob",
    "TriggerExists",
    "TriggerNotFound",
    "WrongModel",
    "invalid_job",
]


class InvalidJob(InvalidArgument):
    """The specification cannot be run; the violations say why."""

    reason = "INVALID_JOB"


class InvalidPath(InvalidArgument):
    """The path leaves its checkpoint, or is no path at all."""

    reason = "INVALID_PATH"


class JobNotFound(NotFound):
    """There is no job of this id."""

    reason = "JOB_NOT_FOUND"


class AttemptNotFound(NotFound):
    """The job has no attempt of this number."""

    reason = "ATTEMPT_NOT_FOUND"


class TriggerNotFound(NotFound):
    """There is no trigger of this name, or the caller may not see it."""

    reason = "TRIGGER_NOT_FOUND"


class CheckpointNotFound(NotFound):
    """There is no such complete checkpoint, or it has no such file."""

    reason = "CHECKPOINT_NOT_FOUND"


class TriggerExists(AlreadyExists):
    """A trigger of this name exists."""

    reason = "TRIGGER_EXISTS"


class RequestReused(AlreadyExists):
    """The request id came with another specification before."""

    reason = "REQUEST_ID_REUSED"


class JobNotRunning(FailedPrecondition):
    """The job has no processes that could report anything."""

    reason = "JOB_NOT_RUNNING"


class AttemptSuperseded(FailedPrecondition):
    """The attempt that reports is over; a later one runs."""

    reason = "ATTEMPT_SUPERSEDED"


class CheckpointComplete(FailedPrecondition):
    """The checkpoint is complete and does not change any more."""

    reason = "CHECKPOINT_COMPLETE"


class CheckpointEmpty(FailedPrecondition):
    """The checkpoint has no files."""

    reason = "CHECKPOINT_EMPTY"


class WrongModel(FailedPrecondition):
    """The version is not one that this job may have registered."""

    reason = "WRONG_MODEL"


class CheckpointTooLarge(ResourceExhausted):
    """A file is larger than the service takes."""

    reason = "CHECKPOINT_TOO_LARGE"
    retryable = False


class StaleJob(Aborted):
    """The job was changed since it was read."""

    reason = "STALE_JOB"


class SourceRefused(Exception):
    """The code cannot be had, however often it is tried; the text says why."""


class SourceUnavailable(Exception):
    """The code cannot be had now; the text says why."""


def invalid_job(field: str, rule: str) -> InvalidJob:
    """An InvalidJob for one field of the specification, `spec.` left out."""
    return InvalidJob(f"{field} {rule}", violations=[FieldViolation(f"spec.{field}", rule)])
