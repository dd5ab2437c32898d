"""Jobs in SQL: changes are compare-and-set on the revision, with events and chores beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import sqlalchemy as sa

from services.training.adapters.sql.inserts import insert_if_new
from services.training.adapters.sql.rows import chore_row, job_row, job_value
from services.training.adapters.sql.tables import CHORE, JOB
from services.training.domain.chore import Chore
from services.training.domain.job import Job, JobState
from services.training.errors import JobNotFound, StaleJob
from services.training.ports import JobQuery
from tessera_kit.bus.event import Event
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["SqlJobs"]

_UNFINISHED = [state.value for state in JobState if not state.is_final]


class SqlJobs:
    """`ports.Jobs` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, job: Job, request_id: str, tells: Sequence[Event]) -> Job:
        """Store a new job; an earlier one of the same request comes back instead."""
        row = {**job_row(job), "request_id": request_id or None}
        async with UnitOfWork(self._database) as uow:
            if await insert_if_new(uow.session, JOB, row):
                for event in tells:
                    uow.publish(event)
                await uow.commit()
                return job
        known = await self.find_request(job.submitted_by, request_id)
        return known if known is not None else await self.get(job.job_id)

    async def find_request(self, principal: str, request_id: str) -> Job | None:
        """The job of an earlier `add` of this submitter with this request id."""
        query = sa.select(JOB).where(
            JOB.c.submitted_by == principal, JOB.c.request_id == request_id
        )
        return next(iter(await self._read(query)), None)

    async def get(self, job_id: str) -> Job:
        """Read a job."""
        found = await self._read(sa.select(JOB).where(JOB.c.job_id == job_id))
        if not found:
            raise JobNotFound(f"there is no job {job_id!r}", metadata={"job_id": job_id})
        return found[0]

    async def page(self, query: JobQuery, before: str, limit: int) -> Sequence[Job]:
        """Jobs with ids below `before`, the newest first."""
        select = sa.select(JOB).order_by(JOB.c.job_id.desc()).limit(limit)
        if before:
            select = select.where(JOB.c.job_id < before)
        if query.name:
            select = select.where(JOB.c.name == query.name)
        if query.trigger_name:
            select = select.where(JOB.c.trigger_name == query.trigger_name)
        if query.states:
            select = select.where(JOB.c.state.in_(sorted(state.value for state in query.states)))
        return await self._read(select)

    async def unfinished(self) -> Sequence[Job]:
        """Jobs that are not final, in order of submission."""
        query = sa.select(JOB).where(JOB.c.state.in_(_UNFINISHED)).order_by(JOB.c.job_id)
        return await self._read(query)

    async def save(
        self, job: Job, tells: Sequence[Event] = (), chores: Sequence[Chore] = ()
    ) -> Job:
        """Store a change, if nobody stored one since it was read."""
        raised = job.revision + 1
        update = (
            sa.update(JOB)
            .where(JOB.c.job_id == job.job_id, JOB.c.revision == job.revision)
            .values({**job_row(job), "revision": raised})
        )
        async with UnitOfWork(self._database) as uow:
            result = cast("sa.CursorResult[Any]", await uow.session.execute(update))
            if result.rowcount != 1:
                raise StaleJob(f"job {job.job_id} was changed since it was read")
            for chore in chores:
                await insert_if_new(uow.session, CHORE, chore_row(chore))
            for event in tells:
                uow.publish(event)
            await uow.commit()
        return replace(job, revision=raised)

    async def _read(self, query: sa.Select[Any]) -> list[Job]:
        async with self._database.sessions() as session:
            rows = (await session.execute(query)).mappings().all()
        return [job_value(row) for row in rows]
