"""What training needs of the world; `adapters.memory` holds a twin of each.

Every call may raise `tessera_kit.errors.Unavailable` when its system does not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.training.domain.chore import Chore
from services.training.domain.job import InputTable, Job, JobState, Source
from services.training.domain.life import AttemptResult, EndCause
from services.training.domain.trigger import FiringOutcome, Trigger, TriggerEvent
from tessera_kit.bus.event import Event
from tessera_kit.config import Secret

__all__ = [
    "AttemptKey",
    "AttemptPlan",
    "Catalog",
    "CheckpointFile",
    "CheckpointFiles",
    "Chores",
    "Code",
    "Firings",
    "IssuedToken",
    "JobQuery",
    "Jobs",
    "LogRecord",
    "Logs",
    "ModelVersionFacts",
    "Processes",
    "Sources",
    "Tracking",
    "Triggers",
]


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs a listing holds; empty fields match all."""

    name: str = ""
    states: frozenset[JobState] = frozenset()
    trigger_name: str = ""


class Jobs(Protocol):
    """Keeps jobs. Each call is one transaction, with the events told and the chores owed."""

    async def add(self, job: Job, request_id: str, tells: Sequence[Event]) -> Job:
        """Store a new job.

        When the submitter used a non-empty `request_id` before, that call's job is returned,
        nothing is stored and nothing told.
        """

    async def find_request(self, principal: str, request_id: str) -> Job | None:
        """The job of an earlier `add` of this submitter with this request id."""

    async def get(self, job_id: str) -> Job:
        """Read a job.

        Raises:
            JobNotFound: There is none.
        """

    async def page(self, query: JobQuery, before: str, limit: int) -> Sequence[Job]:
        """Jobs with ids below `before` (all when empty), the newest first."""

    async def unfinished(self) -> Sequence[Job]:
        """Jobs that are not final, in order of submission."""

    async def save(
        self, job: Job, tells: Sequence[Event] = (), chores: Sequence[Chore] = ()
    ) -> Job:
        """Store a change of `job`, which has the revision that was read; it comes back raised.

        Raises:
            StaleJob: The stored revision is another; nothing is stored, told or owed.
        """


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One stored file of a checkpoint."""

    path: str
    """Below the checkpoint, with forward slashes."""
    size_bytes: int
    sha256: str
    """Lower-case hex."""


class CheckpointFiles(Protocol):
    """Keeps which files the checkpoints of each attempt have; the bytes are in the object store."""

    async def put(self, job_id: str, attempt: int, step: int, file: CheckpointFile) -> None:
        """Note a stored file; one of the same path is replaced."""

    async def list(self, job_id: str, attempt: int, step: int) -> Sequence[CheckpointFile]:
        """The files of one checkpoint, by path."""

    async def steps(self, job_id: str) -> Sequence[tuple[int, int]]:
        """(attempt, step) of every checkpoint with files, in order."""

    async def drop(self, job_id: str, attempt: int, step: int) -> None:
        """Forget the files of one checkpoint."""


class Triggers(Protocol):
    """Keeps triggers and what became of each event."""

    async def add(self, trigger: Trigger, request_id: str) -> Trigger:
        """Store a new trigger.

        When its creator used a non-empty `request_id` before, that call's trigger comes back.

        Raises:
            TriggerExists: The name is taken.
        """

    async def get(self, name: str) -> Trigger:
        """Read a trigger.

        Raises:
            TriggerNotFound: There is none.
        """

    async def page(self, after: str, limit: int) -> Sequence[Trigger]:
        """Triggers with names above `after`, by name."""

    async def delete(self, name: str) -> None:
        """Remove a trigger.

        Raises:
            TriggerNotFound: There is none.
        """

    async def settle(
        self,
        name: str,
        event_id: str,
        outcome: FiringOutcome,
        at: datetime,
        job_id: str,
        message: str,
    ) -> None:
        """Record what became of an event; a submission becomes the trigger's last one."""

    async def outcome(self, name: str, event_id: str) -> FiringOutcome | None:
        """What became of an event; None when it is open or unknown."""


class Firings(Protocol):
    """The consumer's side of triggers: works inside the transaction that claims the event."""

    async def matching(self, event: TriggerEvent, subject: str, at: datetime) -> Sequence[Trigger]:
        """Triggers of this event and subject that existed at a time."""

    async def owe(self, trigger: Trigger, event_id: str, at: datetime) -> None:
        """Note that an event concerns a trigger and owe its firing; twice is the same as once."""


class Chores(Protocol):
    """Keeps what is owed."""

    async def due(self, now: datetime, limit: int) -> Sequence[Chore]:
        """Chores whose time has come, the longest due first."""

    async def next_due(self) -> datetime | None:
        """When the next chore is due; None when none is owed."""

    async def done(self, chore_id: str) -> None:
        """Forget a chore."""

    async def postpone(self, chore_id: str, due_at: datetime) -> None:
        """Try a chore again later; counts the failure."""


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """Names one attempt of one job."""

    job_id: str
    number: int

    @property
    def text(self) -> str:
        """`job_id/number`."""
        return f"{self.job_id}/{self.number}"


@dataclass(frozen=True, slots=True)
class Code:
    """Code that is ready to run."""

    arguments: tuple[str, ...]
    """What follows the interpreter on the command line."""
    directory: str
    """Working directory; empty for a new one."""
    python_path: str = ""
    """Folder that imports are looked for in first; empty for none."""
    git_commit: str = ""
    """The commit, for a Git source."""


class Sources(Protocol):
    """Brings a job's code to the machine."""

    async def fetch(self, key: AttemptKey, source: Source) -> Code:
        """Put the code into the attempt's own folder.

        Raises:
            SourceRefused: It cannot be had, however often it is tried.
            SourceUnavailable: It cannot be had now.
        """


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """What an attempt runs."""

    key: AttemptKey
    code: Code
    arguments: tuple[str, ...]
    environment: dict[str, str]
    """Of every process; RANK and its like are added."""
    token: Secret
    """Given to the processes as a file."""
    process_count: int
    threads_per_process: int
    memory_mib: int
    """Per process with its children; 0 for no bound."""
    gpus: tuple[int, ...]
    gpus_per_process: int
    seconds_left: float
    """Until the job's deadline."""


class Processes(Protocol):
    """Runs attempts as process groups that outlive this service."""

    async def start(self, plan: AttemptPlan) -> None:
        """Start an attempt. At most one start of a key ever runs anything."""

    async def adopt(self, key: AttemptKey) -> bool:
        """Whether the attempt was started, by whatever life of this service.

        When it was not, it never will be.
        """

    async def wait(self, key: AttemptKey) -> AttemptResult:
        """Wait until no process of a started attempt is left; LOST when they left no result.

        May be cancelled and called again; the processes go on.
        """

    async def stop(self, key: AttemptKey, cause: EndCause) -> None:
        """Ask a started attempt to end: SIGTERM, SIGKILL after a grace. Does not wait."""

    async def clear(self, key: AttemptKey) -> None:
        """Remove an ended attempt's files, all but its logs."""

    async def sweep(self, under_way: Collection[AttemptKey]) -> None:
        """Remove what attempts left that are not under way: files at once, logs when old."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of an attempt's log."""

    number: int
    """Position in the attempt's log, from 0."""
    rank: int
    written_at: datetime
    text: str


class Logs(Protocol):
    """Reads what attempts wrote."""

    async def read(self, key: AttemptKey, start: int, limit: int) -> Sequence[LogRecord]:
        """Lines from a position on; fewer than `limit` at the end of what is written."""

    async def grown(self, key: AttemptKey, beyond: int) -> None:
        """Wait until there are more than `beyond` lines."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token made on behalf of a principal."""

    token_id: str
    secret: Secret


@dataclass(frozen=True, slots=True)
class ModelVersionFacts:
    """What training asks of a model version."""

    run_id: str


class Catalog(Protocol):
    """The catalog, as training sees it beside the authority."""

    async def issue_token(self, principal: str, lifetime: timedelta, comment: str) -> IssuedToken:
        """Make a token on behalf of a principal."""

    async def revoke_token(self, token_id: str) -> None:
        """Make a token useless; so be it if it is already, or is not known."""

    async def model_version(self, model_name: str, version: int) -> ModelVersionFacts | None:
        """A model version; None when there is none."""

    async def table_version(self, full_name: str) -> str:
        """What names a table's content as it is now; empty when there is none to be read."""


class Tracking(Protocol):
    """The tracking service, called with the submitter's token."""

    async def create_run(self, token: Secret, job: Job) -> str:
        """The id of the job's run, under way; made once, its experiment too if missing."""

    async def note_commit(self, token: Secret, job: Job, commit: str) -> None:
        """Tag the job's run with the Git commit that its code is of; again changes nothing."""

    async def note_inputs(self, token: Secret, job: Job, tables: Sequence[InputTable]) -> None:
        """Log the tables as inputs of the job's run; again changes nothing."""

    async def end_run(self, token: Secret, job: Job) -> None:
        """Give the run of a final job its status and end; so be it if the run is gone."""
