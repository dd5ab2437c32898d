"""Submit, read, list, cancel and watch jobs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.training.convert.events import submitted
from services.training.domain.checks import GitRules, check_spec
from services.training.domain.job import Job, JobSpec
from services.training.domain.life import CancelRequested
from services.training.errors import RequestReused
from services.training.handlers.changes import Changes, Feed
from services.training.ports import JobQuery, Jobs
from tessera.catalog.v1 import securable_pb2 as securable
from tessera_kit.clock import Clock
from tessera_kit.errors import PermissionDenied, TesseraError
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Access", "JobHandlers", "JobPage", "Rights"]

METASTORE = "metastore"
_SCAN = 200
_MOST_SCANS = 10


class Access(Protocol):
    """The part of `tessera_kit.rpc.authority.Authority` that training uses."""

    async def require(
        self, principal: Principal, privilege: int, securable_type: int, name: str
    ) -> None:
        """Raise PermissionDenied, saying what is missing, unless the principal may."""

    async def register(self, securable_type: int, name: str, owner: str) -> None:
        """Record a securable with its owner."""

    async def unregister(self, securable_type: int, name: str) -> None:
        """Remove a securable with its grants."""


class Rights:
    """What training asks of the authority."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def may_submit(self, principal: Principal, spec: JobSpec) -> None:
        """Check everything that a job of this specification needs.

        Raises:
            PermissionDenied: Something is missing.
        """
        require = self._access.require
        await require(
            principal,
            securable.PRIVILEGE_CREATE_JOB,
            securable.SECURABLE_TYPE_METASTORE,
            METASTORE,
        )
        for table in spec.input_tables:
            await self.may_read_table(principal, table)
        if spec.output_model:
            await require(
                principal,
                securable.PRIVILEGE_CREATE_MODEL_VERSION,
                securable.SECURABLE_TYPE_MODEL,
                spec.output_model,
            )

    async def may_read(self, principal: Principal, job: Job) -> None:
        """Check that the principal may see the job's state and logs."""
        if job.submitted_by != principal.name:
            await self._of_job(principal, securable.PRIVILEGE_SELECT, job)

    async def may_change(self, principal: Principal, job: Job) -> None:
        """Check that the principal may cancel the job or report for it."""
        if job.submitted_by != principal.name:
            await self._of_job(principal, securable.PRIVILEGE_MODIFY, job)

    async def reads(self, principal: Principal, job: Job) -> bool:
        """Whether the principal may see the job."""
        try:
            await self.may_read(principal, job)
        except PermissionDenied:
            return False
        return True

    async def add_job(self, job: Job) -> None:
        """Make the job a securable that its submitter owns."""
        await self._access.register(
            securable.SECURABLE_TYPE_JOB, job.job_id, owner=job.submitted_by
        )

    async def drop_job(self, job: Job) -> None:
        """Undo `add_job`."""
        await self._access.unregister(securable.SECURABLE_TYPE_JOB, job.job_id)

    async def may_read_table(self, principal: Principal, table: str) -> None:
        """Check that the principal may read a table's rows."""
        await self._access.require(
            principal, securable.PRIVILEGE_SELECT, securable.SECURABLE_TYPE_TABLE, table
        )

    async def may_follow(self, principal: Principal, kind: int, privilege: int, name: str) -> None:
        """Check that the principal may learn of events of something."""
        await self._access.require(principal, privilege, kind, name)

    async def _of_job(self, principal: Principal, privilege: int, job: Job) -> None:
        await self._access.require(principal, privilege, securable.SECURABLE_TYPE_JOB, job.job_id)


@dataclass(frozen=True, slots=True)
class JobPage:
    """A part of a listing."""

    jobs: Sequence[Job]
    before: str
    """Where the next page starts; empty on the last one."""


class JobHandlers:
    """The calls on jobs.

    Args:
        jobs: Where jobs are kept.
        changes: How they change.
        feed: Who is to be woken.
        rights: Who may what.
        clock: Time.
        git: Which repositories may be fetched.
        gpus: How many GPUs there are.
    """

    def __init__(
        self,
        jobs: Jobs,
        changes: Changes,
        feed: Feed,
        rights: Rights,
        clock: Clock,
        *,
        git: GitRules,
        gpus: int,
    ) -> None:
        self._jobs = jobs
        self._changes = changes
        self._feed = feed
        self._rights = rights
        self._clock = clock
        self._git = git
        self._gpus = gpus

    async def check(self, principal: Principal, spec: JobSpec) -> None:
        """Refuse what could not be submitted by this principal.

        Raises:
            InvalidJob: The specification cannot be run here.
            PermissionDenied: A right is missing.
        """
        check_spec(spec, self._git, self._gpus)
        await self._rights.may_submit(principal, spec)

    async def submit(
        self, principal: Principal, spec: JobSpec, request_id: str = "", trigger_name: str = ""
    ) -> Job:
        """Queue a job with the principal's rights.

        Raises:
            InvalidJob: The specification cannot be run here.
            PermissionDenied: A right is missing.
            RequestReused: The request id came with another specification before.
        """
        if request_id:
            known = await self._jobs.find_request(principal.name, request_id)
            if known is not None:
                return _same(known, spec)
        await self.check(principal, spec)
        job = Job(
            new_id(),
            spec,
            principal.name,
            self._clock.now(),
            trigger_name=trigger_name,
            revision=1,
        )
        await self._rights.add_job(job)
        try:
            stored = await self._jobs.add(job, request_id, [submitted(job)])
        except BaseException:
            await self._forget(job)
            raise
        if stored.job_id != job.job_id:
            await self._forget(job)
            return _same(stored, spec)
        self._feed.moved.set()
        return stored

    async def get(self, principal: Principal, job_id: str) -> Job:
        """Read a job.

        Raises:
            JobNotFound: There is none.
            PermissionDenied: It may not be seen.
        """
        job = await self._jobs.get(job_id)
        await self._rights.may_read(principal, job)
        return job

    async def page(self, principal: Principal, query: JobQuery, before: str, size: int) -> JobPage:
        """The next jobs that the principal may see, the newest first.

        A page may hold fewer than `size` and yet not be the last: it looks at a bounded number.
        """
        visible: list[Job] = []
        for _ in range(_MOST_SCANS):
            found = await self._jobs.page(query, before, _SCAN)
            for job in found:
                if len(visible) == size:
                    return JobPage(visible, visible[-1].job_id)
                if await self._rights.reads(principal, job):
                    visible.append(job)
            if len(found) < _SCAN:
                return JobPage(visible, "")
            before = found[-1].job_id
        return JobPage(visible, before)

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """Ask a job to end; a final one stays as it is.

        Raises:
            JobNotFound: There is none.
            PermissionDenied: It may not be changed.
        """
        await self._rights.may_change(principal, await self._jobs.get(job_id))
        return await self._changes.apply(job_id, CancelRequested(self._clock.now(), principal.name))

    async def watch(self, principal: Principal, job_id: str) -> AsyncIterator[Job]:
        """The job now and after every change, until it is final.

        Changes that come faster than they are read fall together; the final state always comes.
        """
        await self.get(principal, job_id)
        seen = -1
        async with contextlib.aclosing(self._feed.changes(job_id)) as changes:
            async for _ in changes:
                job = await self._jobs.get(job_id)
                if job.revision != seen:
                    seen = job.revision
                    yield job
                if job.state.is_final:
                    return

    async def _forget(self, job: Job) -> None:
        # A securable without its job does no harm; the failure that led here is what counts.
        with contextlib.suppress(TesseraError):
            await self._rights.drop_job(job)


def _same(job: Job, spec: JobSpec) -> Job:
    if job.spec != spec:
        raise RequestReused("the request id came with another specification before")
    return job
