"""What training deals with, in memory: the catalog, tracking, code, processes and their logs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from services.training.domain.job import (
    FileSource,
    GitSource,
    InputTable,
    Job,
    JobState,
    Source,
)
from services.training.domain.life import AttemptResult, EndCause
from services.training.ports import (
    AttemptKey,
    AttemptPlan,
    Code,
    IssuedToken,
    LogRecord,
    ModelVersionFacts,
)
from tessera_kit.config import Secret
from tessera_kit.ids import new_id

__all__ = [
    "InMemoryCatalog",
    "InMemoryLogs",
    "InMemoryProcesses",
    "InMemorySources",
    "InMemoryTracking",
]


class InMemoryCatalog:
    """Twin of `ports.Catalog`."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        """Principals by the id of each good token."""
        self.issued: list[str] = []
        """Ids of all tokens, good or revoked."""
        self.versions: dict[tuple[str, int], ModelVersionFacts] = {}
        """Model versions by name and number."""
        self.tables: dict[str, str] = {}
        """The version of each table, by full name."""

    async def issue_token(self, principal: str, lifetime: timedelta, comment: str) -> IssuedToken:
        """Make a token on behalf of a principal."""
        token_id = new_id()
        self.tokens[token_id] = principal
        self.issued.append(token_id)
        return IssuedToken(token_id, Secret(f"tsr_{token_id}_secret"))

    async def revoke_token(self, token_id: str) -> None:
        """Make a token useless; so be it if it is already, or is not known."""
        self.tokens.pop(token_id, None)

    async def model_version(self, model_name: str, version: int) -> ModelVersionFacts | None:
        """A model version; None when there is none."""
        return self.versions.get((model_name, version))

    async def table_version(self, full_name: str) -> str:
        """What names a table's content as it is now; empty when there is none."""
        return self.tables.get(full_name, "")


class InMemoryTracking:
    """Twin of `ports.Tracking`."""

    def __init__(self) -> None:
        self.runs: dict[str, JobState | None] = {}
        """The final state of each run, None while it is under way."""
        self.commits: dict[str, str] = {}
        """The Git commit of each run that has one."""
        self.inputs: defaultdict[str, list[InputTable]] = defaultdict(list)
        """The inputs of each run, in the order that they were noted."""
        self._by_job: dict[str, str] = {}

    async def create_run(self, token: Secret, job: Job) -> str:
        """The id of the job's run, under way; made once."""
        run_id = self._by_job.setdefault(job.job_id, new_id())
        self.runs.setdefault(run_id, None)
        return run_id

    async def note_commit(self, token: Secret, job: Job, commit: str) -> None:
        """Tag the job's run with the Git commit that its code is of."""
        self.commits[job.run_id] = commit

    async def note_inputs(self, token: Secret, job: Job, tables: Sequence[InputTable]) -> None:
        """Log the tables as inputs of the job's run."""
        known = self.inputs[job.run_id]
        known.extend(table for table in tables if table not in known)

    async def end_run(self, token: Secret, job: Job) -> None:
        """Give the run of a final job its status and end."""
        if job.run_id in self.runs:
            self.runs[job.run_id] = job.state


class InMemorySources:
    """Twin of `ports.Sources`: takes every source at its word."""

    async def fetch(self, key: AttemptKey, source: Source) -> Code:
        """Name the code."""
        match source:
            case FileSource(name):
                return Code((name,), "")
            case GitSource():
                return Code((source.path,), "", git_commit=source.revision)
            case _:
                return Code(("-m", source.module), "")


class InMemoryProcesses:
    """Twin of `ports.Processes`: attempts end when they are told to, by `end` or by `stop`."""

    def __init__(self) -> None:
        self.started: list[AttemptKey] = []
        """Every attempt that ran, in order; none is in it twice."""
        self.plans: dict[AttemptKey, AttemptPlan] = {}
        self._abandoned: set[AttemptKey] = set()
        self._ends: defaultdict[AttemptKey, asyncio.Future[AttemptResult]] = defaultdict(
            lambda: asyncio.get_running_loop().create_future()
        )

    async def start(self, plan: AttemptPlan) -> None:
        """Start an attempt."""
        if plan.key in self._abandoned or plan.key in self.plans:
            raise OSError(f"attempt {plan.key.text} was taken before")
        self.plans[plan.key] = plan
        self.started.append(plan.key)

    async def adopt(self, key: AttemptKey) -> bool:
        """Whether the attempt was started; when not, it never will be."""
        if key not in self.plans:
            self._abandoned.add(key)
            return False
        return True

    async def wait(self, key: AttemptKey) -> AttemptResult:
        """Wait until the attempt is told to end."""
        return await asyncio.shield(self._ends[key])

    async def stop(self, key: AttemptKey, cause: EndCause) -> None:
        """End a started attempt as SIGTERM would."""
        self.end(key, AttemptResult(cause, -15, "it was asked to stop"))

    async def clear(self, key: AttemptKey) -> None:
        """Nothing is left of a started attempt but what was recorded here."""

    async def sweep(self, under_way: Collection[AttemptKey]) -> None:
        """Nothing is left."""

    def end(self, key: AttemptKey, result: AttemptResult) -> None:
        """Let an attempt end; the first result counts."""
        if not self._ends[key].done():
            self._ends[key].set_result(result)


class InMemoryLogs:
    """Twin of `ports.Logs`."""

    def __init__(self) -> None:
        self._lines: defaultdict[AttemptKey, list[LogRecord]] = defaultdict(list)
        self._grown = asyncio.Condition()

    async def write(self, key: AttemptKey, rank: int, text: str) -> None:
        """Append a line."""
        async with self._grown:
            lines = self._lines[key]
            lines.append(LogRecord(len(lines), rank, datetime.now(UTC), text))
            self._grown.notify_all()

    async def read(self, key: AttemptKey, start: int, limit: int) -> Sequence[LogRecord]:
        """Lines from a position on; fewer than `limit` at the end of what is written."""
        return self._lines[key][start : start + limit]

    async def grown(self, key: AttemptKey, beyond: int) -> None:
        """Wait until there are more than `beyond` lines."""
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._lines[key]) > beyond)
