"""Between the contracts' messages and the domain's values; pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.training.domain.job import (
    Attempt,
    Checkpoint,
    FileSource,
    GitSource,
    Job,
    JobSpec,
    JobState,
    PackageSource,
    Progress,
    Resources,
    RetryPolicy,
    Source,
)
from services.training.domain.trigger import Trigger, TriggerEvent
from services.training.errors import invalid_job
from services.training.ports import LogRecord
from tessera.training.v1 import job_pb2, training_service_pb2

__all__ = [
    "checkpoint_message",
    "job_message",
    "log_line_message",
    "progress_message",
    "progress_value",
    "spec_message",
    "spec_value",
    "state_value",
    "timestamp",
    "trigger_event_value",
    "trigger_message",
]

_STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}
_STATE_VALUES = {number: state for state, number in _STATES.items()}
_EVENTS = {
    event: job_pb2.TriggerEvent.Value(f"TRIGGER_EVENT_{event.name}") for event in TriggerEvent
}
_EVENT_VALUES = {number: event for event, number in _EVENTS.items()}
_DEFAULTS = RetryPolicy()
_DEFAULT_TIMEOUT = timedelta(hours=24)
_LONGEST = timedelta(days=3650)


def timestamp(time: datetime | None) -> Timestamp | None:
    """The message of an aware time; None stays None."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(UTC)


def _duration(span: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(span)
    return message


def _span(message: Duration, field: str, least: timedelta) -> timedelta:
    # Far out of range seconds would overflow Python's own type.
    if abs(message.seconds) > _LONGEST.total_seconds():
        raise invalid_job(field, f"must be at most {_LONGEST.days} days")
    span = timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    if span < least:
        raise invalid_job(field, f"must be at least {least.total_seconds():g} seconds")
    return span


def state_value(number: int) -> JobState | None:
    """The state of an enum's number; None for unspecified and unknown ones."""
    return _STATE_VALUES.get(number)  # type: ignore[call-overload, no-any-return]


def trigger_event_value(number: int) -> TriggerEvent:
    """The event of an enum's number.

    Raises:
        KeyError: It is none of the contract's.
    """
    return _EVENT_VALUES[number]  # type: ignore[index]


def spec_value(message: job_pb2.JobSpec) -> JobSpec:
    """The specification of a message, defaults filled in.

    Raises:
        InvalidJob: There is no source, or a duration is out of range.
    """
    resources = message.resources
    return JobSpec(
        name=message.name,
        source=_source_value(message),
        arguments=tuple(message.arguments),
        environment=dict(message.environment),
        resources=Resources(
            process_count=resources.process_count or 1,
            threads_per_process=resources.threads_per_process,
            memory_mib=resources.memory_mib,
            gpus_per_process=resources.gpus_per_process,
        ),
        retry=_retry_value(message.retry),
        timeout=(
            _span(message.timeout, "timeout", timedelta(seconds=1))
            if message.HasField("timeout")
            else _DEFAULT_TIMEOUT
        ),
        experiment=message.experiment or "default",
        input_tables=tuple(dict.fromkeys(message.input_tables)),
        output_model=message.output_model,
        tags=dict(message.tags),
    )


def _source_value(message: job_pb2.JobSpec) -> Source:
    match message.WhichOneof("source"):
        case "package":
            return PackageSource(message.package.module)
        case "file":
            return FileSource(message.file.name, message.file.content)
        case "git":
            return GitSource(message.git.url, message.git.revision, message.git.path)
        case _:
            raise invalid_job("source", "must be one of package, file and git")


def _retry_value(message: job_pb2.RetryPolicy) -> RetryPolicy:
    first, longest = _DEFAULTS.initial_backoff, _DEFAULTS.max_backoff
    if message.HasField("initial_backoff"):
        first = _span(message.initial_backoff, "retry.initial_backoff", timedelta(0))
    if message.HasField("max_backoff"):
        longest = _span(message.max_backoff, "retry.max_backoff", timedelta(0))
    return RetryPolicy(message.max_retries, first, longest)


def spec_message(spec: JobSpec) -> job_pb2.JobSpec:
    """The message of a specification."""
    resources, retry = spec.resources, spec.retry
    message = job_pb2.JobSpec(
        name=spec.name,
        arguments=spec.arguments,
        environment=spec.environment,
        resources=job_pb2.Resources(
            process_count=resources.process_count,
            threads_per_process=resources.threads_per_process,
            memory_mib=resources.memory_mib,
            gpus_per_process=resources.gpus_per_process,
        ),
        retry=job_pb2.RetryPolicy(
            max_retries=retry.max_retries,
            initial_backoff=_duration(retry.initial_backoff),
            max_backoff=_duration(retry.max_backoff),
        ),
        timeout=_duration(spec.timeout),
        experiment=spec.experiment,
        input_tables=spec.input_tables,
        output_model=spec.output_model,
        tags=spec.tags,
    )
    match spec.source:
        case PackageSource(module):
            message.package.module = module
        case FileSource(name, content):
            message.file.name, message.file.content = name, content
        case GitSource(url, revision, path):
            message.git.url, message.git.revision, message.git.path = url, revision, path
    return message


def progress_value(message: job_pb2.Progress) -> Progress:
    """The progress of a message."""
    return Progress(
        step=message.step,
        total_steps=message.total_steps,
        metrics=dict(message.metrics),
        message=message.message,
        reported_at=_time(message.reported_at) if message.HasField("reported_at") else None,
    )


def progress_message(progress: Progress) -> job_pb2.Progress:
    """The message of a progress."""
    return job_pb2.Progress(
        step=progress.step,
        total_steps=progress.total_steps,
        metrics=progress.metrics,
        message=progress.message,
        reported_at=timestamp(progress.reported_at),
    )


def checkpoint_message(checkpoint: Checkpoint) -> job_pb2.Checkpoint:
    """The message of a checkpoint."""
    return job_pb2.Checkpoint(
        step=checkpoint.step,
        storage_location=checkpoint.storage_location,
        size_bytes=checkpoint.size_bytes,
        created_at=timestamp(checkpoint.created_at),
    )


def attempt_message(attempt: Attempt) -> job_pb2.Attempt:
    """The message of an attempt."""
    return job_pb2.Attempt(
        number=attempt.number,
        state=_STATES[attempt.state],
        started_at=timestamp(attempt.started_at),
        ended_at=timestamp(attempt.ended_at),
        exit_code=attempt.exit_code,
        message=attempt.message,
        resumed_from_step=attempt.resumed_from_step,
        git_commit=attempt.git_commit,
        input_tables=[
            job_pb2.InputTable(full_name=table.full_name, version=table.version)
            for table in attempt.input_tables
        ],
    )


def job_message(job: Job) -> job_pb2.Job:
    """The message of a job."""
    return job_pb2.Job(
        job_id=job.job_id,
        spec=spec_message(job.spec),
        state=_STATES[job.state],
        message=job.message,
        submitted_by=job.submitted_by,
        run_id=job.run_id,
        progress=None if job.progress is None else progress_message(job.progress),
        checkpoint=None if job.checkpoint is None else checkpoint_message(job.checkpoint),
        attempts=[attempt_message(attempt) for attempt in job.attempts],
        output_model_version=job.output_model_version,
        created_at=timestamp(job.created_at),
        ended_at=timestamp(job.ended_at),
        etag=job.etag,
        trigger_name=job.trigger_name,
    )


def trigger_message(trigger: Trigger) -> job_pb2.Trigger:
    """The message of a trigger."""
    return job_pb2.Trigger(
        name=trigger.name,
        event=_EVENTS[trigger.event],
        subject=trigger.subject,
        job=spec_message(trigger.job),
        cool_down=_duration(trigger.cool_down),
        created_by=trigger.created_by,
        created_at=timestamp(trigger.created_at),
        last_job_id=trigger.last_job_id,
    )


def cool_down_value(message: job_pb2.Trigger) -> timedelta:
    """The cool-down of a message; none when absent.

    Raises:
        InvalidJob: It is negative or out of range.
    """
    return _span(message.cool_down, "cool_down", timedelta(0))


def log_line_message(record: LogRecord, attempt: int) -> training_service_pb2.LogLine:
    """The message of a log line."""
    return training_service_pb2.LogLine(
        number=record.number,
        rank=record.rank,
        written_at=timestamp(record.written_at),
        text=record.text,
        attempt=attempt,
    )
