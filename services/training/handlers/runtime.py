"""What a job's processes report: progress, checkpoints, what they read and what they registered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from services.training.domain.checks import check_checkpoint_path
from services.training.domain.job import Checkpoint, InputTable, Job, JobState, Progress
from services.training.domain.life import (
    CheckpointSaved,
    ProgressTold,
    TableRead,
    VersionRegistered,
)
from services.training.errors import (
    AttemptSuperseded,
    CheckpointComplete,
    CheckpointEmpty,
    CheckpointNotFound,
    CheckpointTooLarge,
    JobNotRunning,
    WrongModel,
)
from services.training.handlers.changes import Changes
from services.training.handlers.jobs import Rights
from services.training.ports import Catalog, CheckpointFile, CheckpointFiles, Jobs
from tessera_kit.clock import Clock
from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.objects import ObjectStore

__all__ = ["CheckpointContent", "RuntimeHandlers", "checkpoint_prefix"]

# They travel in the job's last event, which the bus bounds.
_MAX_METRIC_NAMES = 64 * 1024


def checkpoint_prefix(job_id: str, attempt: int, step: int) -> str:
    """Where a checkpoint's files are in the object store; no two attempts share a place."""
    return f"training/jobs/{job_id}/checkpoints/{step}-{attempt}"


@dataclass(frozen=True, slots=True)
class CheckpointContent:
    """A complete checkpoint with its files."""

    checkpoint: Checkpoint
    files: Sequence[CheckpointFile]


class RuntimeHandlers:
    """The calls of a job's own processes.

    Args:
        jobs: Where jobs are kept.
        files: Which files checkpoints have.
        objects: Where their bytes are.
        changes: How jobs change.
        rights: Who may what.
        catalog: Tells of model versions.
        clock: Time.
        max_file_bytes: Largest checkpoint file.
    """

    def __init__(
        self,
        jobs: Jobs,
        files: CheckpointFiles,
        objects: ObjectStore,
        changes: Changes,
        rights: Rights,
        catalog: Catalog,
        clock: Clock,
        *,
        max_file_bytes: int,
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._objects = objects
        self._changes = changes
        self._rights = rights
        self._catalog = catalog
        self._clock = clock
        self._max_file_bytes = max_file_bytes

    async def report(
        self, principal: Principal, job_id: str, attempt: int | None, progress: Progress
    ) -> bool:
        """Record how far a job is; returns whether it should stop.

        Raises:
            JobNotFound, PermissionDenied, JobNotRunning, AttemptSuperseded
            InvalidArgument: It has too many metrics.
        """
        await self._running(principal, job_id, attempt)
        if sum(len(name.encode()) for name in progress.metrics) > _MAX_METRIC_NAMES:
            raise InvalidArgument("the names of a progress's metrics hold at most 64 KiB")
        now = self._clock.now()
        job = await self._changes.apply(job_id, ProgressTold(replace(progress, reported_at=now)))
        return job.state not in {JobState.STARTING, JobState.RUNNING}

    async def upload(
        self,
        principal: Principal,
        job_id: str,
        attempt: int | None,
        step: int,
        path: str,
        chunks: AsyncIterator[bytes],
    ) -> CheckpointFile:
        """Store one file of a checkpoint; one of the same path is replaced.

        Raises:
            JobNotFound, PermissionDenied, JobNotRunning, AttemptSuperseded
            InvalidPath: The path leaves the checkpoint.
            CheckpointComplete: The checkpoint was committed.
            CheckpointTooLarge: The file is larger than the service takes.
        """
        job, number = await self._running(principal, job_id, attempt)
        check_checkpoint_path(path)
        if _is_complete(job, number, step):
            raise CheckpointComplete(f"the checkpoint of step {step} is complete")
        key = f"{checkpoint_prefix(job_id, number, step)}/{path}"
        stored = await self._objects.put(key, self._bounded(chunks))
        file = CheckpointFile(path, stored.size, stored.sha256 or "")
        await self._files.put(job_id, number, step, file)
        return file

    async def commit(
        self, principal: Principal, job_id: str, attempt: int | None, step: int
    ) -> Checkpoint:
        """Declare a checkpoint complete; again changes nothing.

        Raises:
            JobNotFound, PermissionDenied, JobNotRunning, AttemptSuperseded
            CheckpointEmpty: It has no files.
        """
        job, number = await self._running(principal, job_id, attempt)
        if job.checkpoint is not None and _is_complete(job, number, step):
            return job.checkpoint
        files = await self._files.list(job_id, number, step)
        if not files:
            raise CheckpointEmpty(f"the checkpoint of step {step} has no files")
        checkpoint = Checkpoint(
            step=step,
            attempt=number,
            storage_location=checkpoint_prefix(job_id, number, step),
            size_bytes=sum(file.size_bytes for file in files),
            created_at=self._clock.now(),
        )
        job = await self._changes.apply(job_id, CheckpointSaved(checkpoint))
        if job.checkpoint != checkpoint:
            raise AttemptSuperseded("the attempt ended before its checkpoint was complete")
        return checkpoint

    async def latest(self, principal: Principal, job_id: str) -> CheckpointContent | None:
        """The checkpoint that the job would resume from; None when there is none.

        Raises:
            JobNotFound, PermissionDenied
        """
        job = await self._readable(principal, job_id)
        if job.checkpoint is None:
            return None
        saved = job.checkpoint
        return CheckpointContent(saved, await self._files.list(job_id, saved.attempt, saved.step))

    async def download(
        self, principal: Principal, job_id: str, step: int, path: str
    ) -> AsyncIterator[bytes]:
        """The bytes of one file of a complete checkpoint that is still kept.

        Raises:
            JobNotFound, PermissionDenied, CheckpointNotFound
        """
        job = await self._readable(principal, job_id)
        attempts = [number for number, kept in await self._files.steps(job_id) if kept == step]
        if job.checkpoint is not None and job.checkpoint.step == step:
            attempts = [job.checkpoint.attempt]
        elif job.checkpoint is None or step > job.checkpoint.step:
            attempts = []
        for attempt in reversed(attempts):
            for file in await self._files.list(job_id, attempt, step):
                if file.path == path:
                    prefix = checkpoint_prefix(job_id, attempt, step)
                    async for chunk in self._objects.stream(f"{prefix}/{path}"):
                        yield chunk
                    return
        raise CheckpointNotFound(f"there is no file {path!r} in a checkpoint of step {step}")

    async def version(
        self, principal: Principal, job_id: str, attempt: int | None, model: str, version: int
    ) -> None:
        """Record the version that a job registered.

        Raises:
            JobNotFound, PermissionDenied, JobNotRunning, AttemptSuperseded
            WrongModel: It is not of the job's output model, or not of its run.
        """
        job, _ = await self._running(principal, job_id, attempt)
        if model != job.spec.output_model:
            raise WrongModel(f"the job's output model is {job.spec.output_model!r}, not {model!r}")
        facts = await self._catalog.model_version(model, version)
        if facts is None or facts.run_id != job.run_id:
            raise WrongModel(f"version {version} of {model} is not one of the job's run")
        await self._changes.apply(job_id, VersionRegistered(version))

    async def input_table(
        self, principal: Principal, job_id: str, attempt: int | None, table: str
    ) -> str:
        """Record a table that the job is about to read; returns its version, empty for none.

        Raises:
            JobNotFound, PermissionDenied, JobNotRunning, AttemptSuperseded
        """
        _, number = await self._running(principal, job_id, attempt)
        await self._rights.may_read_table(principal, table)
        version = await self._catalog.table_version(table)
        if version:
            await self._changes.apply(job_id, TableRead(number, InputTable(table, version)))
        return version

    async def _readable(self, principal: Principal, job_id: str) -> Job:
        job = await self._jobs.get(job_id)
        await self._rights.may_read(principal, job)
        return job

    async def _running(
        self, principal: Principal, job_id: str, attempt: int | None
    ) -> tuple[Job, int]:
        job = await self._jobs.get(job_id)
        await self._rights.may_change(principal, job)
        if job.attempt is None or not job.state.has_processes:
            raise JobNotRunning(f"the job is {job.state.value}")
        if attempt is not None and attempt != job.attempt.number:
            raise AttemptSuperseded(f"attempt {job.attempt.number} runs, not {attempt}")
        return job, job.attempt.number

    async def _bounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self._max_file_bytes:
                limit = self._max_file_bytes >> 20
                raise CheckpointTooLarge(f"a checkpoint file holds at most {limit} MiB")
            yield chunk


def _is_complete(job: Job, attempt: int, step: int) -> bool:
    saved = job.checkpoint
    return saved is not None and saved.attempt == attempt and saved.step == step
