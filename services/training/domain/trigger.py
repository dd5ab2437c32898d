"""Triggers: a job that is submitted when an event arrives."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.training.domain.job import JobSpec

__all__ = ["FiringOutcome", "Trigger", "TriggerEvent", "cools_down"]


class TriggerEvent(enum.Enum):
    """What a trigger waits for."""

    ALERT_FIRED = "alert_fired"
    MODEL_VERSION_READY = "model_version_ready"


class FiringOutcome(enum.Enum):
    """What became of one event for one trigger."""

    SUBMITTED = "submitted"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Trigger:
    """Submits a job once per event."""

    name: str
    """Unique."""
    event: TriggerEvent
    """What it waits for."""
    subject: str
    """Whose event: a monitor's name, or a model's full name."""
    job: JobSpec
    """What it submits."""
    created_by: str
    """Principal with whose rights the job is submitted."""
    created_at: datetime
    """Events from before are not its concern."""
    cool_down: timedelta = timedelta(0)
    """Least time between two submissions."""
    last_job_id: str = ""
    """The job that it submitted last."""
    last_submitted_at: datetime | None = None
    """When that was."""


def cools_down(trigger: Trigger, now: datetime) -> bool:
    """Whether it is too early to submit again."""
    last = trigger.last_submitted_at
    return last is not None and now - last < trigger.cool_down
