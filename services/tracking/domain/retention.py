"""What was deleted, and what is removed for good: after a time, or when it is asked for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from services.tracking.domain.artifacts import ArtifactRoot
from services.tracking.domain.lifecycle import Micros

__all__ = ["Deleted", "Kind", "Purge", "home_of"]


class Kind(enum.StrEnum):
    """What can be deleted and brought back, or removed for good."""

    EXPERIMENT = "experiment"
    RUN = "run"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """Something that can be removed for good once it is deleted."""

    kind: Kind
    id: str
    experiment_id: str
    """The experiment that it is, or belongs to."""
    name: str
    created_by: str
    """The principal that created it."""
    deleted_at: Micros | None
    """When it was deleted; None while it is in use."""


class Purge(NamedTuple):
    """That something is being removed for good; nobody sees it any more."""

    kind: Kind
    id: str
    experiment_id: str
    is_late: bool
    """Whether all was removed once, and only what came late is looked for.

    A signed URL lives for up to seven days, and a transfer that began before the purge goes on.
    """


def home_of(purge: Purge) -> ArtifactRoot:
    """Return below what its files are."""
    prefix = purge.experiment_id
    if purge.kind is Kind.RUN:
        prefix = f"{prefix}/{purge.id}"
    elif purge.kind is Kind.MODEL:
        prefix = f"{prefix}/models/{purge.id}"
    return ArtifactRoot(prefix, f"{purge.kind} {purge.id}")
