"""Jobs, attempts and checkpoints as values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

__all__ = [
    "Attempt",
    "Checkpoint",
    "FileSource",
    "GitSource",
    "Job",
    "JobSpec",
    "JobState",
    "PackageSource",
    "Progress",
    "Resources",
    "RetryPolicy",
    "Source",
]


class JobState(enum.Enum):
    """Where a job, or one attempt at it, is in its life."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    WAITING_FOR_RETRY = "waiting_for_retry"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self in _FINAL

    @property
    def has_processes(self) -> bool:
        """Whether an attempt is under way in it."""
        return self in _UNDER_WAY

    @property
    def is_waiting(self) -> bool:
        """Whether the job waits for an attempt to be started."""
        return self in _WAITING


_FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
_UNDER_WAY = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCELLING})
_WAITING = frozenset({JobState.QUEUED, JobState.WAITING_FOR_RETRY})


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Code in an importable package."""

    module: str
    """Run as `python -m module`."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """One Python file that came with the job."""

    name: str
    """The file's name, without folders."""
    content: str
    """Its text."""


@dataclass(frozen=True, slots=True)
class GitSource:
    """A file of a Git repository at one commit."""

    url: str
    """Where the repository is."""
    revision: str
    """Commit, tag or branch."""
    path: str
    """The file to run, relative to the repository's root, with forward slashes."""


Source = PackageSource | FileSource | GitSource


@dataclass(frozen=True, slots=True)
class Resources:
    """What processes a job gets."""

    process_count: int = 1
    """Processes that run the entry point together."""
    threads_per_process: int = 0
    """Threads of numeric libraries in each; 0 shares the machine's cores evenly."""
    memory_mib: int = 0
    """MiB that one process and its children may hold; 0 for no bound."""
    gpus_per_process: int = 0
    """GPUs of each process."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed attempts are tried again."""

    max_retries: int = 0
    """Further attempts after the first."""
    initial_backoff: timedelta = timedelta(seconds=1)
    """Pause before the first retry; doubles with each."""
    max_backoff: timedelta = timedelta(seconds=60)
    """Longest pause."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job does: given once, never changed."""

    name: str
    """For people; need not be unique."""
    source: Source
    """Where the code is."""
    arguments: tuple[str, ...] = ()
    """Command line arguments of the entry point."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables."""
    resources: Resources = Resources()
    """What processes it gets."""
    retry: RetryPolicy = RetryPolicy()
    """How failed attempts are tried again."""
    timeout: timedelta = timedelta(hours=24)
    """How long all of its attempts may take together, from the first one's start."""
    experiment: str = "default"
    """Name of the experiment that its run is kept in."""
    input_tables: tuple[str, ...] = ()
    """Full names of the tables that it reads."""
    output_model: str = ""
    """Full name of the registered model that it adds a version to; empty for none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags, copied to the run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job says it is."""

    step: int = 0
    """The step reached."""
    total_steps: int = 0
    """The last step; 0 when unknown."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Latest value of each metric."""
    message: str = ""
    """What the job says of itself."""
    reported_at: datetime | None = None
    """When it was told."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint in the object store."""

    step: int
    """The step that it holds the state after."""
    attempt: int
    """The attempt that saved it."""
    storage_location: str
    """Prefix of its files, without a slash at the end."""
    size_bytes: int
    """Size of all files."""
    created_at: datetime
    """When it was complete."""


@dataclass(frozen=True, slots=True)
class InputTable:
    """A table that a job reads, as an attempt found it."""

    full_name: str
    """Its three-part name."""
    version: str = ""
    """Names its content, by the catalog; empty when that could not be read."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to run a job."""

    number: int
    """Counted from 1."""
    state: JobState
    """STARTING, RUNNING, CANCELLING or final."""
    started_at: datetime
    """When it began; once its processes run, when they did."""
    ended_at: datetime | None = None
    """When it ended."""
    exit_code: int = 0
    """Of the first process that failed; negative for a signal."""
    message: str = ""
    """Why it ended."""
    resumed_from_step: int = 0
    """Step of the checkpoint that it started from; 0 when it started anew."""
    git_commit: str = ""
    """The commit that ran, for a Git source."""
    token_id: str = ""
    """Id of the token that its processes hold; empty before there is one."""
    gpus: tuple[int, ...] = ()
    """Indexes of the GPUs that it holds."""
    input_tables: tuple[InputTable, ...] = ()
    """The tables that it reads, each once, as seen before its start or as read last."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training job with its state. Made by `life.submit`, changed by `life.apply` only."""

    job_id: str
    """UUIDv7: sorts by submission."""
    spec: JobSpec
    """What it does."""
    submitted_by: str
    """Principal with whose rights it runs."""
    created_at: datetime
    """When it was submitted."""
    state: JobState = JobState.QUEUED
    """Where it is in its life."""
    message: str = ""
    """Why it is in this state."""
    run_id: str = ""
    """Its tracking run; empty before the first attempt."""
    progress: Progress | None = None
    """How far it is; None before it told."""
    checkpoint: Checkpoint | None = None
    """The latest complete checkpoint."""
    attempts: tuple[Attempt, ...] = ()
    """The first one first."""
    output_model_version: int = 0
    """The version that it registered; 0 for none yet."""
    ended_at: datetime | None = None
    """When it reached a final state."""
    trigger_name: str = ""
    """The trigger that submitted it; empty when a caller did."""
    deadline_at: datetime | None = None
    """When its time is up; set with its first attempt."""
    retry_at: datetime | None = None
    """When the next attempt may start, while it waits for a retry."""
    failures: int = 0
    """Attempts that ended by the job's own fault; they use up the retry budget."""
    losses: int = 0
    """Attempts in a row that ended by the platform's fault; they do not."""
    revision: int = 0
    """Counts stored changes; compared when a change is stored."""

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def etag(self) -> str:
        """Changes with every stored change."""
        return f"{self.revision}"
