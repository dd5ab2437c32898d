"""What may go wrong in the catalog, each with a stable reason.

InvalidArgument
├── InvalidColumn          a column's name or type is not accepted
├── InvalidLayout          a table's order, partition, version or retention does not fit its columns
├── InvalidLocation        an external location leaves where it may be
├── InvalidPath            a file's path could leave its root
├── InvalidPredicate       a condition does not fit its column
├── InvalidSecurable       a kind and name that do not go together
├── InvalidGrant           a privilege that does not apply to the object's kind
├── InvalidPrincipal       a principal that may not be what it is asked to be
├── InvalidMask            an update mask names a field that cannot be changed
├── InvalidUpload          the stream of an upload or append is out of order
├── InvalidEdge            a lineage edge breaks a rule
├── DigestMismatch         the bytes sent are not those announced
├── SchemaMismatch         rows do not fit the table's columns
└── RequestIdReused        one request id for two different requests
NotFound
├── SecurableNotFound  ├── VersionNotFound  ├── AliasNotFound  ├── FileNotFound
└── PrincipalNotFound  └── TokenNotFound
AlreadyExists
├── SecurableExists    └── PrincipalExists
PermissionDenied
├── PrivilegeMissing       a grant is missing; the message says which
└── NotAllowed             only administrators, services or the principal itself may
FailedPrecondition
├── NotEmpty               a container still holds something
├── VersionNotPending      the version's files can no longer change
├── VersionEmpty           a version without files cannot become ready
├── ModelServed            endpoints refer to the model by its name
├── UploadRunning          a file of the version is being written
├── NotManaged             rows of external tables are not written here
├── FilesUnreadable        an external table's files are missing or not Parquet of its columns
├── GroupCycle             a group would contain itself
└── Protected              part of the installation
Aborted
├── StaleEtag              the object changed since it was read
└── Busy                   the object is being created or deleted now
ResourceExhausted
└── LimitReached           a bound on size, time or memory
Unavailable
└── StorageUnavailable     an engine does not answer
"""

from __future__ import annotations

from tessera_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

__all__ = [
    "AliasNotFound",
    "Busy",
    "DigestMismatch",
    "FileNotFound",
    "FilesUnreadable",
    "GroupCycle",
    "InvalidColumn",
    "InvalidEdge",
    "InvalidGrant",
    "InvalidLayout",
    "InvalidLocation",
    "InvalidMask",
    "InvalidPath",
    "InvalidPredicate",
    "InvalidPrincipal",
    "InvalidSecurable",
    "InvalidUpload",
    "LimitReached",
    "ModelServed",
    "NotAllowed",
    "NotEmpty",
    "NotManaged",
    "PrincipalExists",
    "PrincipalNotFound",
    "PrivilegeMissing",
    "Protected",
    "RequestIdReused",
    "SchemaMismatch",
    "SecurableExists",
    "SecurableNotFound",
    "StaleEtag",
    "StorageUnavailable",
    "TokenNotFound",
    "UploadRunning",
    "VersionEmpty",
    "VersionNotFound",
    "VersionNotPending",
    "of_field",
]


def of_field(kind: type[InvalidArgument], field: str, text: str) -> InvalidArgument:
    """Make an error of one wrong field; `text` follows the field's name."""
    return kind(f"{field} {text}", violations=[FieldViolation(field, text)])


class InvalidColumn(InvalidArgument):
    """A column's name or type is not accepted."""

    reason = "INVALID_COLUMN"


class InvalidLayout(InvalidArgument):
    """A table's order, partition, version column or retention does not fit its columns."""

    reason = "INVALID_LAYOUT"


class InvalidLocation(InvalidArgument):
    """An external location leaves where it may be."""

    reason = "INVALID_LOCATION"


class InvalidPath(InvalidArgument):
    """A file's path could leave its root."""

    reason = "INVALID_PATH"


class InvalidPredicate(InvalidArgument):
    """A condition or an order does not fit the table's columns."""

    reason = "INVALID_PREDICATE"


class InvalidSecurable(InvalidArgument):
    """A kind and a name that do not go together."""

    reason = "INVALID_SECURABLE"


class InvalidGrant(InvalidArgument):
    """A privilege that does not apply to the object's kind."""

    reason = "INVALID_GRANT"


class InvalidPrincipal(InvalidArgument):
    """A principal that may not be what it is asked to be."""

    reason = "INVALID_PRINCIPAL"


class InvalidMask(InvalidArgument):
    """An update mask names a field that cannot be changed."""

    reason = "INVALID_UPDATE_MASK"


class InvalidUpload(InvalidArgument):
    """The messages of an upload or append are not one header and then bytes."""

    reason = "INVALID_UPLOAD"


class InvalidEdge(InvalidArgument):
    """A lineage edge breaks a rule; the violation names its field."""

    reason = "INVALID_LINEAGE_EDGE"


class DigestMismatch(InvalidArgument):
    """The bytes that arrived are not those that were announced."""

    reason = "DIGEST_MISMATCH"


class SchemaMismatch(InvalidArgument):
    """Rows do not fit the table's columns; the violations name them."""

    reason = "SCHEMA_MISMATCH"


class RequestIdReused(InvalidArgument):
    """One request id was used for two different requests."""

    reason = "REQUEST_ID_REUSED"


class SecurableNotFound(NotFound):
    """No such object, or the caller may not see it."""

    reason = "SECURABLE_NOT_FOUND"


class VersionNotFound(NotFound):
    """The model has no such version."""

    reason = "MODEL_VERSION_NOT_FOUND"


class AliasNotFound(NotFound):
    """The model has no such alias."""

    reason = "MODEL_ALIAS_NOT_FOUND"


class FileNotFound(NotFound):
    """The version has no such file."""

    reason = "FILE_NOT_FOUND"


class PrincipalNotFound(NotFound):
    """No such principal."""

    reason = "PRINCIPAL_NOT_FOUND"


class TokenNotFound(NotFound):
    """No such token, or it is another principal's."""

    reason = "TOKEN_NOT_FOUND"


class SecurableExists(AlreadyExists):
    """The name is taken among its kind."""

    reason = "SECURABLE_EXISTS"


class PrincipalExists(AlreadyExists):
    """The name is taken by a principal."""

    reason = "PRINCIPAL_EXISTS"


class PrivilegeMissing(PermissionDenied):
    """A grant is missing; the message says which."""

    reason = "PRIVILEGE_MISSING"


class NotAllowed(PermissionDenied):
    """Only administrators, services or the principal itself may do this."""

    reason = "NOT_ALLOWED"


class NotEmpty(FailedPrecondition):
    """A container still holds something."""

    reason = "NOT_EMPTY"


class VersionNotPending(FailedPrecondition):
    """The version's files can no longer change."""

    reason = "MODEL_VERSION_NOT_PENDING"


class VersionEmpty(FailedPrecondition):
    """A version without files cannot become ready."""

    reason = "MODEL_VERSION_EMPTY"


class ModelServed(FailedPrecondition):
    """Endpoints refer to the model by its name."""

    reason = "MODEL_SERVED"


class UploadRunning(FailedPrecondition):
    """A file of the version is being written now."""

    reason = "UPLOAD_RUNNING"


class NotManaged(FailedPrecondition):
    """Rows of external tables are not written here."""

    reason = "TABLE_NOT_MANAGED"


class FilesUnreadable(FailedPrecondition):
    """An external table's files are missing, or are not Parquet of its columns."""

    reason = "FILES_UNREADABLE"


class GroupCycle(FailedPrecondition):
    """A group would contain itself."""

    reason = "GROUP_CYCLE"


class Protected(FailedPrecondition):
    """Part of the installation, which may not be deleted."""

    reason = "PROTECTED"


class StaleEtag(Aborted):
    """The object changed since it was read."""

    reason = "STALE_ETAG"


class Busy(Aborted):
    """The object is being created or deleted now."""

    reason = "BUSY"


class LimitReached(ResourceExhausted):
    """A bound on size, time or memory was reached."""

    reason = "LIMIT_REACHED"


class StorageUnavailable(Unavailable):
    """An engine does not answer."""

    reason = "STORAGE_UNAVAILABLE"
