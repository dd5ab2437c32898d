"""What tracking may answer instead of a result.

    InvalidArgument
    ├── InvalidKey              a name of a metric, parameter or tag breaks the rules
    ├── InvalidValue            a text or time that cannot be kept
    ├── BatchTooLarge           more entities or bytes than one batch may hold
    ├── DuplicateParams         one batch names a parameter twice
    ├── InvalidFilter           a filter does not parse; the message says where
    ├── InvalidOrderBy          an order_by entry does not parse
    ├── InvalidUpdate           an update mask or a new value makes no sense
    ├── InvalidArtifactPath     a path leaves the run's artifacts, or cannot be a file's name
    ├── InvalidSpans            what an OpenTelemetry exporter sent cannot be read
    ├── InvalidUpload           the messages of an upload come in the wrong order
    └── ChecksumMismatch        the content is not what its sender announced
    NotFound
    ├── ExperimentNotFound
    ├── RunNotFound
    ├── TagNotFound
    ├── TraceNotFound
    ├── AssessmentNotFound
    ├── EvaluationDatasetNotFound
    ├── ScorerNotFound
    ├── ReviewNotFound
    ├── LoggedModelNotFound
    ├── WebhookNotFound
    ├── AliasNotFound           no version of the model has this alias
    └── ArtifactNotFound
    AlreadyExists
    └── ExperimentNameTaken
    FailedPrecondition
    ├── ParamChanged            a parameter is written once
    ├── RunNotActive            the run was deleted
    ├── ExperimentNotActive     the experiment was deleted
    ├── NotDeleted              it is in use and would be removed for good
    ├── DeletedTooRecently      it was not deleted for as long as was asked for
    ├── DefaultExperimentKept   the default experiment stays as it is
    ├── TooManyWebhooks         there are as many as there may be
    ├── SecretLost              it was encrypted with another key
    ├── RegisteredFilesKept     files of a registered version do not change
    └── ArtifactIsDirectory     the path is a folder, or lies below a file
    Aborted
    └── StaleEtag               somebody else changed it since it was read
    Unavailable
    └── StoreBusy               the database does not take a write now

Texts that MLflow's users know (parameters written once, batch limits, stages) are MLflow's.
"""

from __future__ import annotations

from datetime import timedelta

from tessera_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    Unavailable,
)

__all__ = [
    "AliasNotFound",
    "ArtifactIsDirectory",
    "ArtifactNotFound",
    "AssessmentNotFound",
    "BatchTooLarge",
    "ChecksumMismatch",
    "DefaultExperimentKept",
    "DeletedTooRecently",
    "DuplicateParams",
    "EvaluationDatasetNotFound",
    "ExperimentNameTaken",
    "ExperimentNotActive",
    "ExperimentNotFound",
    "InvalidArtifactPath",
    "InvalidFilter",
    "InvalidKey",
    "InvalidOrderBy",
    "InvalidSpans",
    "InvalidUpdate",
    "InvalidUpload",
    "InvalidValue",
    "LoggedModelNotFound",
    "NotDeleted",
    "ParamChanged",
    "RegisteredFilesKept",
    "ReviewExists",
    "ReviewNotFound",
    "RunNotActive",
    "RunNotFound",
    "ScorerNotFound",
    "SecretLost",
    "StaleEtag",
    "StoreBusy",
    "TagNotFound",
    "TooManyWebhooks",
    "TraceNotFound",
    "WebhookNotFound",
]


class _FieldError(InvalidArgument):
    """A request whose one wrong field is known."""

    def __init__(self, message: str, field: str, **metadata: str) -> None:
        super().__init__(message, metadata=metadata, violations=[FieldViolation(field, message)])


class InvalidKey(_FieldError):
    """The name of a metric, parameter or tag breaks MLflow's rules."""

    reason = "INVALID_KEY"


class InvalidValue(_FieldError):
    """A text or time that cannot be kept."""

    reason = "INVALID_VALUE"


class BatchTooLarge(InvalidArgument):
    """One batch holds more entities or bytes than it may."""

    reason = "BATCH_TOO_LARGE"


class DuplicateParams(InvalidArgument):
    """One batch names a parameter more than once."""

    reason = "DUPLICATE_PARAMS"


class InvalidFilter(_FieldError):
    """A filter does not parse; `metadata["position"]` counts characters from 1."""

    reason = "INVALID_FILTER"

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message, "filter", position=str(position))


class InvalidOrderBy(_FieldError):
    """An order_by entry does not parse."""

    reason = "INVALID_ORDER_BY"


class InvalidUpdate(_FieldError):
    """An update mask names a field that cannot be changed, or a new value makes no sense."""

    reason = "INVALID_UPDATE"


class InvalidArtifactPath(_FieldError):
    """A path leaves the run's artifacts, or cannot be a file's name."""

    reason = "INVALID_ARTIFACT_PATH"

    def __init__(self, message: str) -> None:
        super().__init__(message, "path")


class InvalidUpload(InvalidArgument):
    """The messages of an upload come in the wrong order."""

    reason = "INVALID_UPLOAD"


class InvalidSpans(InvalidArgument):
    """What an OpenTelemetry exporter sent cannot be read; none of it was stored."""

    reason = "INVALID_SPANS"


class ChecksumMismatch(InvalidArgument):
    """The content's SHA-256 is not the announced one; nothing was stored."""

    reason = "CHECKSUM_MISMATCH"


class ExperimentNotFound(NotFound):
    """No experiment has this id or name."""

    reason = "EXPERIMENT_NOT_FOUND"


class RunNotFound(NotFound):
    """No run has this id."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run with id={run_id} not found", metadata={"run_id": run_id})


class AliasNotFound(NotFound):
    """A registered model has no alias of this name."""

    reason = "ALIAS_NOT_FOUND"


class TagNotFound(NotFound):
    """A run, experiment or trace has no tag of this name."""

    reason = "TAG_NOT_FOUND"

    def __init__(self, key: str, what: str, identifier: str) -> None:
        super().__init__(
            f"No tag with name: {key} in {what} with id {identifier}",
            metadata={"key": key, f"{what}_id": identifier},
        )


class TraceNotFound(NotFound):
    """No trace has this id."""

    reason = "TRACE_NOT_FOUND"

    def __init__(self, trace_id: str) -> None:
        super().__init__(
            f"Trace with ID '{trace_id[:300]}' not found.", metadata={"trace_id": trace_id[:300]}
        )


class AssessmentNotFound(NotFound):
    """The trace has no such assessment."""

    reason = "ASSESSMENT_NOT_FOUND"

    def __init__(self, trace_id: str, assessment_id: str) -> None:
        super().__init__(
            f"Assessment with ID '{assessment_id[:300]}' not found for trace '{trace_id}'",
            metadata={"trace_id": trace_id, "assessment_id": assessment_id[:300]},
        )


class EvaluationDatasetNotFound(NotFound):
    """No evaluation data set has this id."""

    reason = "EVALUATION_DATASET_NOT_FOUND"

    def __init__(self, dataset_id: str) -> None:
        super().__init__(
            f"Evaluation dataset with id '{dataset_id[:300]}' not found",
            metadata={"dataset_id": dataset_id[:300]},
        )


class ScorerNotFound(NotFound):
    """The experiment has no such scorer, or not that version of it."""

    reason = "SCORER_NOT_FOUND"


class ReviewNotFound(NotFound):
    """There is no such question, queue, item of a queue, or issue."""

    reason = "REVIEW_NOT_FOUND"


class ReviewExists(AlreadyExists):
    """The experiment has another question or queue of that name."""

    reason = "REVIEW_EXISTS"


class WebhookNotFound(NotFound):
    """No webhook has this id."""

    reason = "WEBHOOK_NOT_FOUND"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"Webhook with ID {webhook_id[:300]} not found.")


class TooManyWebhooks(FailedPrecondition):
    """There are as many webhooks as there may be."""

    reason = "TOO_MANY_WEBHOOKS"


class SecretLost(FailedPrecondition):
    """A secret was sealed with a key that this service does not have."""

    reason = "SECRET_LOST"


class LoggedModelNotFound(NotFound):
    """No logged model has this id."""

    reason = "LOGGED_MODEL_NOT_FOUND"

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"Logged model with ID '{model_id}' not found.", metadata={"model_id": model_id}
        )


class ArtifactNotFound(NotFound):
    """The run has no such artifact."""

    reason = "ARTIFACT_NOT_FOUND"


class ExperimentNameTaken(AlreadyExists):
    """Another experiment, perhaps a deleted one, has this name."""

    reason = "EXPERIMENT_NAME_TAKEN"

    def __init__(self, name: str) -> None:
        super().__init__(f"Experiment(name={name}) already exists.", metadata={"name": name})


class ParamChanged(FailedPrecondition):
    """A parameter has another value already; parameters are written once."""

    reason = "PARAM_CHANGED"


class RunNotActive(FailedPrecondition):
    """The run was deleted."""

    reason = "RUN_NOT_ACTIVE"

    def __init__(self, run_id: str, *, needed: str = "active", stage: str = "deleted") -> None:
        super().__init__(
            f"The run {run_id} must be in the '{needed}' state. Current state is {stage}.",
            metadata={"run_id": run_id, "stage": stage},
        )


class ExperimentNotActive(FailedPrecondition):
    """The experiment was deleted."""

    reason = "EXPERIMENT_NOT_ACTIVE"

    def __init__(
        self, experiment_id: str, *, needed: str = "active", stage: str = "deleted"
    ) -> None:
        super().__init__(
            f"The experiment {experiment_id} must be in the '{needed}' state. "
            f"Current state is {stage}.",
            metadata={"experiment_id": experiment_id, "stage": stage},
        )


class DefaultExperimentKept(FailedPrecondition):
    """The default experiment can be neither renamed nor deleted."""

    reason = "DEFAULT_EXPERIMENT_KEPT"


class NotDeleted(FailedPrecondition):
    """It is in use: only what was deleted can be removed for good."""

    reason = "NOT_DELETED"

    def __init__(self, kind: str, thing_id: str) -> None:
        super().__init__(
            f"The {kind} {thing_id} is in use; only what was deleted can be removed for good.",
            metadata={"kind": kind, "id": thing_id},
        )


class DeletedTooRecently(FailedPrecondition):
    """It was not deleted for as long as was asked for."""

    reason = "DELETED_TOO_RECENTLY"

    def __init__(self, kind: str, thing_id: str, age: timedelta) -> None:
        super().__init__(
            f"The {kind} {thing_id} was deleted less than {age} ago.",
            metadata={"kind": kind, "id": thing_id},
        )


class RegisteredFilesKept(FailedPrecondition):
    """Files of a version of a registered model do not change."""

    reason = "REGISTERED_FILES_KEPT"


class ArtifactIsDirectory(FailedPrecondition):
    """The path is a folder where a file is needed, or lies below a file."""

    reason = "ARTIFACT_IS_DIRECTORY"


class StaleEtag(Aborted):
    """The resource changed since its etag was read."""

    reason = "STALE_ETAG"


class StoreBusy(Unavailable):
    """The database does not take a write now; nothing was stored."""

    reason = "STORE_BUSY"
