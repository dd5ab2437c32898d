"""The life of a job: one pure function from a job and what happened to the job afterwards.

    QUEUED ──► STARTING ──► RUNNING ──► SUCCEEDED
      │  ▲        │  │         │  ├───► FAILED
      │  │        │  └──┬──────┘  │
      │  │        │     ▼         ▼
      │  │        │  CANCELLING ► CANCELLED
      ▼  │        ▼               ▲
    CANCELLED   WAITING_FOR_RETRY ┘ (back to STARTING when its pause is over)

What does not apply to the job as it is (a second end of one attempt, a cancellation of a final job,
news of an older attempt) leaves it unchanged, so that everything may be told again: whoever crashes
half way tells it once more. A final state is never left.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.training.domain.job import (
    Attempt,
    Checkpoint,
    InputTable,
    Job,
    JobState,
    Progress,
    RetryPolicy,
)

__all__ = [
    "MAX_INPUT_TABLES",
    "MAX_LOSSES",
    "AttemptBegun",
    "AttemptEnded",
    "AttemptPrepared",
    "AttemptResult",
    "AttemptRunning",
    "CancelRequested",
    "CheckpointSaved",
    "CodeFetched",
    "EndCause",
    "Happening",
    "InputsSeen",
    "ProgressTold",
    "RunCreated",
    "TableRead",
    "TimeUp",
    "VersionRegistered",
    "apply",
    "backoff",
]

MAX_INPUT_TABLES = 200
"""Tables of an attempt; they travel in the job's events, which the bus bounds."""

MAX_LOSSES = 10
"""Attempts in a row that may end by the platform's fault before the job fails."""


class EndCause(enum.Enum):
    """Why an attempt ended."""

    EXITED = "exited"
    """Its processes ended by themselves; the exit code tells how."""
    OUT_OF_MEMORY = "out_of_memory"
    """A process held more memory than the job asked for."""
    TIMED_OUT = "timed_out"
    """The job's time was up."""
    CANCELLED = "cancelled"
    """It was stopped because the job is cancelled."""
    PREEMPTED = "preempted"
    """It was stopped so that the service could stop."""
    LOST = "lost"
    """Its processes are gone and left no result."""
    UNPREPARED = "unprepared"
    """It could not be prepared now; it may succeed later."""
    REFUSED = "refused"
    """It cannot be prepared, however often it is tried."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt ended."""

    cause: EndCause
    """Why."""
    exit_code: int = 0
    """Of the first process that failed; negative for a signal; 0 when none did."""
    message: str = ""
    """In words; the last lines of an error."""


@dataclass(frozen=True, slots=True)
class AttemptBegun:
    """The queue gave the job room."""

    at: datetime
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RunCreated:
    """The job's tracking run exists."""

    run_id: str


@dataclass(frozen=True, slots=True)
class AttemptPrepared:
    """A token was made for the attempt; told before it is used, so that it is always revoked."""

    number: int
    token_id: str


@dataclass(frozen=True, slots=True)
class CodeFetched:
    """The attempt's code is on the machine."""

    number: int
    git_commit: str


@dataclass(frozen=True, slots=True)
class InputsSeen:
    """What the attempt is about to read is known."""

    number: int
    tables: tuple[InputTable, ...]


@dataclass(frozen=True, slots=True)
class TableRead:
    """The attempt reads a table, declared or not."""

    number: int
    table: InputTable


@dataclass(frozen=True, slots=True)
class AttemptRunning:
    """The attempt's processes run."""

    number: int
    at: datetime
    resumed_from_step: int = 0


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """No process of the attempt is left."""

    number: int
    at: datetime
    result: AttemptResult
    jitter: float = 0.0
    """Random, 0 to 1: spreads the pauses of jobs that fail together."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody wants the job to end."""

    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The job's deadline was reached while no attempt was under way."""

    at: datetime


@dataclass(frozen=True, slots=True)
class ProgressTold:
    """The job said how far it is."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint of the latest attempt is complete."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class VersionRegistered:
    """The job added a version to its output model."""

    version: int


Happening = (
    AttemptBegun
    | RunCreated
    | AttemptPrepared
    | CodeFetched
    | InputsSeen
    | TableRead
    | AttemptRunning
    | AttemptEnded
    | CancelRequested
    | TimeUp
    | ProgressTold
    | CheckpointSaved
    | VersionRegistered
)


def apply(job: Job, happening: Happening) -> Job:
    """Return the job after something happened; the same object when that changes nothing."""
    if job.state.is_final:
        return job
    match happening:
        case AttemptBegun():
            return _begin(job, happening)
        case AttemptRunning():
            return _run(job, happening)
        case AttemptEnded():
            return _end(job, happening)
        case CancelRequested():
            return _cancel(job, happening)
        case TimeUp():
            return _time_up(job, happening.at)
        case _:
            return _told(job, happening)


def backoff(policy: RetryPolicy, count: int, jitter: float) -> timedelta:
    """Return the pause after the `count`-th end in a row: doubling, bounded, spread by `jitter`.

    Args:
        policy: First and longest pause.
        count: From 1.
        jitter: 0 to 1; the pause lies between half and all of the doubled one.
    """
    first, most = policy.initial_backoff.total_seconds(), policy.max_backoff.total_seconds()
    doubled = min(first * 2.0 ** min(count - 1, 100), most)
    return timedelta(seconds=doubled * (0.5 + 0.5 * jitter))


def _begin(job: Job, begun: AttemptBegun) -> Job:
    if not job.state.is_waiting or (job.retry_at is not None and begun.at < job.retry_at):
        return job
    if job.deadline_at is not None and begun.at >= job.deadline_at:
        return _time_up(job, begun.at)
    number = len(job.attempts) + 1
    attempt = Attempt(number, JobState.STARTING, begun.at, gpus=begun.gpus)
    return replace(
        job,
        state=JobState.STARTING,
        message="",
        attempts=(*job.attempts, attempt),
        deadline_at=job.deadline_at or begun.at + job.spec.timeout,
        retry_at=None,
    )


def _run(job: Job, running: AttemptRunning) -> Job:
    attempt = _under_way(job, running.number)
    if attempt is None or attempt.state is not JobState.STARTING:
        return job
    attempt = replace(
        attempt,
        state=JobState.RUNNING,
        started_at=running.at,
        resumed_from_step=running.resumed_from_step,
    )
    state = JobState.RUNNING if job.state is JobState.STARTING else job.state
    return replace(_with_attempt(job, attempt), state=state)


def _cancel(job: Job, request: CancelRequested) -> Job:
    message = f"cancelled by {request.by}"
    if job.state.is_waiting:
        return replace(
            job, state=JobState.CANCELLED, message=message, ended_at=request.at, retry_at=None
        )
    if job.state is JobState.CANCELLING:
        return job
    return replace(job, state=JobState.CANCELLING, message=message)


def _time_up(job: Job, at: datetime) -> Job:
    if not job.state.is_waiting or job.deadline_at is None or at < job.deadline_at:
        return job
    return _fail(job, at, f"the job's time of {job.spec.timeout} was up: {job.message}")


def _end(job: Job, ended: AttemptEnded) -> Job:
    attempt = _under_way(job, ended.number)
    if attempt is None:
        return job
    result = ended.result
    final = replace(attempt, ended_at=ended.at, exit_code=result.exit_code, message=result.message)
    if job.state is JobState.CANCELLING:
        job = _with_attempt(job, replace(final, state=JobState.CANCELLED))
        return replace(job, state=JobState.CANCELLED, ended_at=ended.at)
    if _succeeded(job, result):
        job = _with_attempt(job, replace(final, state=JobState.SUCCEEDED))
        return replace(job, state=JobState.SUCCEEDED, message="", ended_at=ended.at)
    job = _with_attempt(job, replace(final, state=JobState.FAILED))
    if result.cause in {EndCause.TIMED_OUT, EndCause.REFUSED}:
        return _fail(job, ended.at, result.message)
    return _retry(job, ended)


def _succeeded(job: Job, result: AttemptResult) -> bool:
    if result.exit_code != 0:
        return False
    # A job that was told to stop may leave politely with 0; only what it had to make tells whether
    # it was done.
    made_its_model = bool(job.spec.output_model) and job.output_model_version > 0
    return result.cause is EndCause.EXITED or (
        result.cause is EndCause.PREEMPTED and made_its_model
    )


def _retry(job: Job, ended: AttemptEnded) -> Job:
    result = ended.result
    policy = job.spec.retry
    if result.cause is EndCause.PREEMPTED:
        return _wait(job, ended, timedelta(0), "to be resumed")
    if result.cause in {EndCause.LOST, EndCause.UNPREPARED}:
        job = replace(job, losses=job.losses + 1)
        if job.losses > MAX_LOSSES:
            return _fail(job, ended.at, result.message)
        return _wait(job, ended, backoff(policy, job.losses, ended.jitter), "to be tried again")
    job = replace(job, failures=job.failures + 1, losses=0)
    if job.failures > policy.max_retries:
        return _fail(job, ended.at, result.message)
    pause = backoff(policy, job.failures, ended.jitter)
    return _wait(job, ended, pause, f"retry {job.failures} of {policy.max_retries}")


def _wait(job: Job, ended: AttemptEnded, pause: timedelta, what: str) -> Job:
    retry_at = ended.at + pause
    message = f"{what} after attempt {ended.number}: {ended.result.message}"
    if job.deadline_at is not None and retry_at >= job.deadline_at:
        return _fail(
            job, ended.at, f"no time of {job.spec.timeout} is left for another try: {message}"
        )
    return replace(job, state=JobState.WAITING_FOR_RETRY, message=message, retry_at=retry_at)


def _fail(job: Job, at: datetime, message: str) -> Job:
    return replace(job, state=JobState.FAILED, message=message, ended_at=at, retry_at=None)


def _told(job: Job, happening: Happening) -> Job:
    if not job.state.has_processes:
        return job
    match happening:
        case RunCreated(run_id):
            return job if job.run_id else replace(job, run_id=run_id)
        case AttemptPrepared() | CodeFetched() | InputsSeen() | TableRead():
            return _learn(job, happening)
        case ProgressTold(progress):
            return job if progress == job.progress else replace(job, progress=progress)
        case CheckpointSaved(checkpoint):
            current = job.attempt is not None and checkpoint.attempt == job.attempt.number
            if not current or checkpoint == job.checkpoint:
                return job
            return replace(job, checkpoint=checkpoint)
        case VersionRegistered(version):
            same = version == job.output_model_version
            return job if same else replace(job, output_model_version=version)
    return job


def _learn(job: Job, happening: AttemptPrepared | CodeFetched | InputsSeen | TableRead) -> Job:
    attempt = _under_way(job, happening.number)
    if attempt is None:
        return job
    match happening:
        case AttemptPrepared(_, token_id):
            learnt = attempt if attempt.token_id else replace(attempt, token_id=token_id)
        case CodeFetched(_, git_commit):
            learnt = replace(attempt, git_commit=git_commit)
        case InputsSeen(_, tables):
            learnt = replace(attempt, input_tables=tables)
        case TableRead(_, table):
            learnt = replace(attempt, input_tables=_with_table(attempt.input_tables, table))
    return job if learnt == attempt else _with_attempt(job, learnt)


def _with_table(tables: tuple[InputTable, ...], table: InputTable) -> tuple[InputTable, ...]:
    """The tables with another one, or with another version of it: what was read last counts."""
    known = {one.full_name: one for one in tables}
    if table.full_name not in known and len(known) >= MAX_INPUT_TABLES:
        return tables
    return tuple((known | {table.full_name: table}).values())


def _under_way(job: Job, number: int) -> Attempt | None:
    attempt = job.attempt
    if attempt is None or attempt.number != number or not job.state.has_processes:
        return None
    return attempt


def _with_attempt(job: Job, attempt: Attempt) -> Job:
    return replace(job, attempts=(*job.attempts[:-1], attempt))
