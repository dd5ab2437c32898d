"""Chores: effects in other systems that a stored change still owes; done at least once."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from services.training.domain.job import Job

__all__ = ["Chore", "ChoreKind", "chores_of"]


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


def chores_of(before: Job, after: Job) -> Iterator[Chore]:
    """The effects that a change owes to other systems."""
    for old, new in zip(before.attempts, after.attempts, strict=False):
        if new.state.is_final and not old.state.is_final and new.token_id and new.ended_at:
            yield Chore(
                f"revoke:{new.token_id}",
                ChoreKind.REVOKE_TOKEN,
                after.job_id,
                new.ended_at,
                {"token_id": new.token_id},
            )
    if after.checkpoint != before.checkpoint and after.checkpoint is not None:
        saved = after.checkpoint
        yield Chore(
            f"tidy:{after.job_id}:{saved.attempt}.{saved.step}",
            ChoreKind.TIDY_CHECKPOINTS,
            after.job_id,
            saved.created_at,
        )
    if after.state.is_final and not before.state.is_final and after.ended_at is not None:
        if after.run_id:
            yield Chore(f"run:{after.job_id}", ChoreKind.END_RUN, after.job_id, after.ended_at)
        if after.checkpoint is not None:
            yield Chore(
                f"tidy:{after.job_id}:ended",
                ChoreKind.TIDY_CHECKPOINTS,
                after.job_id,
                after.ended_at,
            )
