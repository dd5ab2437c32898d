"""Model versions: their life, files and aliases."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from services.catalog.domain.securables import EntityState

__all__ = ["ModelFile", "ModelVersion", "Upload", "VersionStatus"]


class VersionStatus(enum.IntEnum):
    """The numbers are those of `tessera.catalog.v1.ModelVersionStatus`."""

    PENDING_REGISTRATION = 1
    READY = 2
    FAILED_REGISTRATION = 3


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model."""

    id: str
    model_id: str
    """The model's entity id."""
    model_name: str
    """The model's full name."""
    version: int
    status: VersionStatus
    storage_location: str
    """Prefix of its files in the object store; ends with a slash."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    etag: str
    status_message: str = ""
    run_id: str = ""
    comment: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    state: EntityState = EntityState.ACTIVE

    @property
    def pending(self) -> bool:
        """Whether its files may still change."""
        return self.status is VersionStatus.PENDING_REGISTRATION


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One stored file of a version."""

    path: str
    size_bytes: int
    sha256: str
    """Lower-case hex; empty when the file was written past this service."""
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is being written now: keeps its version from becoming ready under it."""

    id: str
    version_id: str
    path: str
    started_at: datetime
