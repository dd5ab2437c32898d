"""Between rows and the domain's values; pure."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.engine import RowMapping

from services.training.convert import messages
from services.training.domain.chore import Chore, ChoreKind
from services.training.domain.job import Attempt, Checkpoint, InputTable, Job, JobState
from services.training.domain.trigger import Trigger, TriggerEvent
from tessera.training.v1 import job_pb2

__all__ = [
    "chore_row",
    "chore_value",
    "job_row",
    "job_value",
    "micros",
    "moment",
    "trigger_row",
    "trigger_value",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(time: datetime | None) -> int | None:
    """Unix microseconds of an aware time."""
    return None if time is None else (time - _EPOCH) // _MICROSECOND


def moment(value: int | None) -> datetime | None:
    """The time of Unix microseconds."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def _known(value: int | None) -> datetime:
    assert value is not None  # noqa: S101 - the column does not hold null
    return _EPOCH + timedelta(microseconds=value)


def job_row(job: Job) -> dict[str, Any]:
    """The row of a job, its request id left out."""
    progress = None
    if job.progress is not None:
        progress = messages.progress_message(job.progress).SerializeToString()
    return {
        "job_id": job.job_id,
        "name": job.spec.name,
        "submitted_by": job.submitted_by,
        "trigger_name": job.trigger_name,
        "state": job.state.value,
        "message": job.message,
        "run_id": job.run_id,
        "spec": messages.spec_message(job.spec).SerializeToString(),
        "progress": progress,
        "checkpoint": _checkpoint_text(job.checkpoint),
        "attempts": json.dumps([_attempt_fields(attempt) for attempt in job.attempts]),
        "output_model_version": job.output_model_version,
        "created_at": micros(job.created_at),
        "ended_at": micros(job.ended_at),
        "deadline_at": micros(job.deadline_at),
        "retry_at": micros(job.retry_at),
        "failures": job.failures,
        "losses": job.losses,
        "revision": job.revision,
    }


def job_value(row: RowMapping) -> Job:
    """The job of a row."""
    spec = messages.spec_value(job_pb2.JobSpec.FromString(row["spec"]))
    progress = None
    if row["progress"] is not None:
        progress = messages.progress_value(job_pb2.Progress.FromString(row["progress"]))
    return Job(
        job_id=row["job_id"],
        spec=spec,
        submitted_by=row["submitted_by"],
        created_at=_known(row["created_at"]),
        state=JobState(row["state"]),
        message=row["message"],
        run_id=row["run_id"],
        progress=progress,
        checkpoint=_checkpoint_value(row["checkpoint"]),
        attempts=tuple(_attempt_value(one) for one in json.loads(row["attempts"])),
        output_model_version=row["output_model_version"],
        ended_at=moment(row["ended_at"]),
        trigger_name=row["trigger_name"],
        deadline_at=moment(row["deadline_at"]),
        retry_at=moment(row["retry_at"]),
        failures=row["failures"],
        losses=row["losses"],
        revision=row["revision"],
    )


def _attempt_fields(attempt: Attempt) -> dict[str, Any]:
    values = {field.name: getattr(attempt, field.name) for field in fields(attempt)}
    values["state"] = attempt.state.value
    values["started_at"] = micros(attempt.started_at)
    values["ended_at"] = micros(attempt.ended_at)
    values["gpus"] = list(attempt.gpus)
    values["input_tables"] = [(one.full_name, one.version) for one in attempt.input_tables]
    return values


def _attempt_value(values: dict[str, Any]) -> Attempt:
    return Attempt(
        **{
            **values,
            "state": JobState(values["state"]),
            "started_at": moment(values["started_at"]),
            "ended_at": moment(values["ended_at"]),
            "gpus": tuple(values["gpus"]),
            # Attempts of before inputs were kept have none.
            "input_tables": tuple(InputTable(*one) for one in values.get("input_tables", ())),
        }
    )


def _checkpoint_text(checkpoint: Checkpoint | None) -> str | None:
    if checkpoint is None:
        return None
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    return json.dumps({**values, "created_at": micros(checkpoint.created_at)})


def _checkpoint_value(text: str | None) -> Checkpoint | None:
    if text is None:
        return None
    values = json.loads(text)
    return Checkpoint(**{**values, "created_at": _known(values["created_at"])})


def trigger_row(trigger: Trigger) -> dict[str, Any]:
    """The row of a trigger, its request id left out."""
    return {
        "name": trigger.name,
        "event": trigger.event.value,
        "subject": trigger.subject,
        "job": messages.spec_message(trigger.job).SerializeToString(),
        "created_by": trigger.created_by,
        "created_at": micros(trigger.created_at),
        "cool_down_us": trigger.cool_down // _MICROSECOND,
        "last_job_id": trigger.last_job_id,
        "last_submitted_at": micros(trigger.last_submitted_at),
    }


def trigger_value(row: RowMapping) -> Trigger:
    """The trigger of a row."""
    return Trigger(
        name=row["name"],
        event=TriggerEvent(row["event"]),
        subject=row["subject"],
        job=messages.spec_value(job_pb2.JobSpec.FromString(row["job"])),
        created_by=row["created_by"],
        created_at=_known(row["created_at"]),
        cool_down=timedelta(microseconds=row["cool_down_us"]),
        last_job_id=row["last_job_id"],
        last_submitted_at=moment(row["last_submitted_at"]),
    )


def chore_row(chore: Chore) -> dict[str, Any]:
    """The row of a chore."""
    return {
        "chore_id": chore.chore_id,
        "kind": chore.kind.value,
        "subject": chore.subject,
        "detail": json.dumps(dict(chore.detail)),
        "due_at": micros(chore.due_at),
        "tries": chore.tries,
    }


def chore_value(row: RowMapping) -> Chore:
    """The chore of a row."""
    return Chore(
        chore_id=row["chore_id"],
        kind=ChoreKind(row["kind"]),
        subject=row["subject"],
        due_at=_known(row["due_at"]),
        detail=json.loads(row["detail"]),
        tries=row["tries"],
    )
