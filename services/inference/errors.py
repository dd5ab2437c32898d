"""What may go wrong in inference, each with a stable reason.

InvalidArgument
├── InvalidSignature       a model's manifest does not describe what can be served
├── InvalidArchive         a model's file holds what is not loaded from strangers
├── InvalidExample         a model's example does not fit its signature
├── InvalidConfig          a configuration's entities or shares do not fit together
│   └── CodeNotAllowed     a model brings code, and the configuration does not allow it
└── InvalidInference       an inference request does not fit the endpoint's signature
    └── UnsupportedMedia   a body is of a type that the door does not read
NotFound
├── EndpointNotFound       no endpoint of that name, or the caller may not see it
├── ConfigNotFound         the endpoint never had a configuration of that number
├── BodyNotFound           no such row, or it has no such body
└── RequestNotFound        no inference table that the caller may read has the request's row
AlreadyExists
├── EndpointExists         the name is taken
└── RequestIdReused        one request id for two different requests
FailedPrecondition
├── UpdateInProgress       a configuration is being made ready; a second one must wait
├── NoUpdateInProgress     no configuration is being made ready, so none can be given up
├── CanaryRuns             a canary runs; a second one must wait for its end
├── NoCanary               no canary runs, so none can be ended
├── EndpointNotReady       the endpoint has no configuration that answers yet
├── ModelNotServable       the model version is not ready, or lacks its files
├── SecretNotFound         a variable names a secret that is not there, or not for its reader
└── TableUnavailable       the inference table cannot be made under that name
Aborted
└── StaleEtag              the endpoint changed since it was read
ResourceExhausted
├── TooManyInferences      the gateway has as many requests in flight as it may
├── RateLimited            a limit of the endpoint has no calls left in its window
├── EntityBusy             a served entity has as many requests in and before it as it may
└── SpoolFull              the log of payloads has no room left on disk
Unavailable
├── RuntimeUnavailable     the model runtime does not answer, or is loading the model again
│   └── ModelNotLoaded     it answers, and does not have the model: nothing of the request ran
└── StoreUnavailable       a store or service that is needed does not answer
DeadlineExceeded
└── InferenceTimeout       the caller's deadline passed before the model answered
Internal
└── ModelFailed            the model's own code failed; its first line is told to the caller

`tessera_kit.rpc.status` tells what gRPC code each category becomes.
"""

from __future__ import annotations

from tessera_kit.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

__all__ = [
    "BodyNotFound",
    "CanaryRuns",
    "CodeNotAllowed",
    "ConfigNotFound",
    "EndpointExists",
    "EndpointNotFound",
    "EndpointNotReady",
    "EntityBusy",
    "InferenceTimeout",
    "InvalidArchive",
    "InvalidConfig",
    "InvalidExample",
    "InvalidExplanation",
    "InvalidInference",
    "InvalidSignature",
    "ModelFailed",
    "ModelNotLoaded",
    "ModelNotServable",
    "NoCanary",
    "NoUpdateInProgress",
    "RateLimited",
    "RequestAmbiguous",
    "RequestIdReused",
    "RequestNotFound",
    "RequestNotWritten",
    "RuntimeUnavailable",
    "SecretNotFound",
    "SpoolFull",
    "StaleEtag",
    "StoreUnavailable",
    "TableUnavailable",
    "TooManyInferences",
    "UnsupportedMedia",
    "UpdateInProgress",
]


class InvalidSignature(InvalidArgument):
    """A model's manifest does not describe what can be served."""

    reason = "INVALID_SIGNATURE"


class InvalidArchive(InvalidArgument):
    """A model's file holds what is not loaded from strangers, or is no model of its flavor."""

    reason = "INVALID_ARCHIVE"


class InvalidExample(InvalidArgument):
    """A model's example does not fit its signature."""

    reason = "INVALID_EXAMPLE"


class InvalidConfig(InvalidArgument):
    """A configuration's entities or shares do not fit together."""

    reason = "INVALID_CONFIG"


class CodeNotAllowed(InvalidConfig):
    """A model brings code of its author, and the configuration does not allow that."""

    reason = "CODE_NOT_ALLOWED"


class InvalidInference(InvalidArgument):
    """An inference request does not fit the endpoint's signature; the violations name inputs."""

    reason = "INVALID_INFERENCE"


class UnsupportedMedia(InvalidInference):
    """A body is of a type that the door does not read."""

    reason = "UNSUPPORTED_MEDIA_TYPE"


class EndpointNotFound(NotFound):
    """No endpoint of that name, or the caller may not see it."""

    reason = "ENDPOINT_NOT_FOUND"


class ConfigNotFound(NotFound):
    """The endpoint never had a configuration of that number."""

    reason = "CONFIG_NOT_FOUND"


class RequestNotFound(NotFound):
    """No inference table that the caller may read has a row of the request."""

    reason = "REQUEST_NOT_FOUND"


class RequestNotWritten(Unavailable):
    """The request is so young that its row may be on its way; the error says when to ask again."""

    reason = "REQUEST_NOT_WRITTEN"


class RequestAmbiguous(FailedPrecondition):
    """Several requests have one caller's id; the error names theirs."""

    reason = "REQUEST_AMBIGUOUS"


class InvalidExplanation(InvalidArgument):
    """It is not said, or not in one way, which answer to explain."""

    reason = "INVALID_EXPLANATION"


class BodyNotFound(NotFound):
    """The table has no such row, or the row no such body."""

    reason = "BODY_NOT_FOUND"


class EndpointExists(AlreadyExists):
    """The endpoint's name is taken."""

    reason = "ENDPOINT_EXISTS"


class RequestIdReused(AlreadyExists):
    """One request id was given to two different requests."""

    reason = "REQUEST_ID_REUSED"


class UpdateInProgress(FailedPrecondition):
    """A configuration is being made ready; a second one must wait for it."""

    reason = "UPDATE_IN_PROGRESS"


class NoUpdateInProgress(FailedPrecondition):
    """No configuration is being made ready, so none can be given up."""

    reason = "NO_UPDATE_IN_PROGRESS"


class CanaryRuns(FailedPrecondition):
    """A canary runs; a second one must wait for its end."""

    reason = "CANARY_RUNS"


class NoCanary(FailedPrecondition):
    """No canary runs, so none can be ended."""

    reason = "NO_CANARY"


class EndpointNotReady(FailedPrecondition):
    """The endpoint has no configuration that answers yet."""

    reason = "ENDPOINT_NOT_READY"


class ModelNotServable(FailedPrecondition):
    """The model version is not ready, or lacks the files that serving needs."""

    reason = "MODEL_NOT_SERVABLE"


class SecretNotFound(FailedPrecondition):
    """A variable names a secret that does not exist, or that its reader may not read."""

    reason = "SECRET_NOT_FOUND"


class TableUnavailable(FailedPrecondition):
    """The inference table cannot be made under that name."""

    reason = "TABLE_UNAVAILABLE"


class StaleEtag(Aborted):
    """The endpoint changed since it was read."""

    reason = "STALE_ETAG"


class TooManyInferences(ResourceExhausted):
    """The gateway has as many requests in flight as it may."""

    reason = "TOO_MANY_INFERENCES"


class RateLimited(ResourceExhausted):
    """A limit of the endpoint has no calls left in its window; the error says when it ends."""

    reason = "RATE_LIMITED"


class EntityBusy(ResourceExhausted):
    """A served entity has as many requests in the runtime and waiting for it as it may."""

    reason = "ENTITY_BUSY"


class SpoolFull(ResourceExhausted):
    """The log of payloads has no room left on disk, so requests are refused, not lost."""

    reason = "SPOOL_FULL"


class RuntimeUnavailable(Unavailable):
    """The model runtime does not answer, or is loading the model again."""

    reason = "RUNTIME_UNAVAILABLE"


class ModelNotLoaded(RuntimeUnavailable):
    """The runtime answers and does not have the model; nothing of the request ran."""

    reason = "MODEL_NOT_LOADED"


class StoreUnavailable(Unavailable):
    """A store or service that is needed does not answer."""

    reason = "STORE_UNAVAILABLE"


class InferenceTimeout(DeadlineExceeded):
    """The caller's deadline passed before the model answered."""

    reason = "INFERENCE_TIMEOUT"


class ModelFailed(Internal):
    """The model's own code failed on this input; the caller is told the first line of its error."""

    reason = "MODEL_FAILED"
