"""Chores: effects in other systems that a stored change still owes; done at least once."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["Chore", "ChoreKind"]


class ChoreKind(enum.Enum):
    """What is owed."""

    END_RUN = "end_run"
    """Set the status of a final job's tracking run."""
    REVOKE_TOKEN = "revoke_token"  # noqa: S105 - a kind of chore, no secret
    """Make an ended attempt's token useless."""
    TIDY_CHECKPOINTS = "tidy_checkpoints"
    """Delete files of checkpoints that nothing resumes from any more."""
    FIRE_TRIGGER = "fire_trigger"
    """Submit a trigger's job for one event."""


@dataclass(frozen=True, slots=True)
class Chore:
    """One effect that is owed; its id makes owing it twice the same as once."""

    chore_id: str
    kind: ChoreKind
    subject: str
    """The job's id, or the trigger's name."""
    due_at: datetime
    detail: Mapping[str, str] = field(default_factory=dict)
    tries: int = 0
    """How often it failed."""
