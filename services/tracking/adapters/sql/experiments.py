"""Experiments in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.search import ExperimentSearch
from services.tracking.adapters.sql.tables import EXPERIMENT_TAGS, EXPERIMENTS, PURGING
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.errors import ExperimentNameTaken
from services.tracking.ports.store import ExperimentQuery

__all__ = ["SqlExperiments"]


class SqlExperiments:
    """The experiment store in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, experiment_id: str) -> Experiment | None:
        """Return the experiment; None when there is none."""
        return await self._one(_SELECT.where(EXPERIMENTS.c.experiment_id == experiment_id))

    async def by_name(self, name: str) -> Experiment | None:
        """Return the experiment of that name; None when there is none."""
        return await self._one(_SELECT.where(EXPERIMENTS.c.name == name))

    async def lock(self, experiment_id: str, *, shared: bool = False) -> Experiment | None:
        """As `get`, and hold it; on SQLite the transaction holds the whole database anyway."""
        statement = _SELECT.where(EXPERIMENTS.c.experiment_id == experiment_id)
        return await self._one(statement.with_for_update(read=shared))

    async def find(self, query: ExperimentQuery) -> list[Experiment]:
        """Return experiments in order."""
        search = ExperimentSearch(self._session.get_bind().dialect.name)
        return await self._many(search.statement(_SELECT, query))

    async def add(self, experiment: Experiment) -> None:
        """Store a new experiment."""
        await self._store(sa.insert(EXPERIMENTS).values(_row(experiment)), experiment)

    async def put(self, experiment: Experiment) -> None:
        """Store the new state of a locked experiment."""
        statement = sa.update(EXPERIMENTS).where(
            EXPERIMENTS.c.experiment_id == experiment.experiment_id
        )
        await self._store(statement.values(_row(experiment)), experiment)

    async def _store(self, statement: sa.Insert | sa.Update, experiment: Experiment) -> None:
        try:
            # A savepoint, so that the refusal leaves the transaction usable on PostgreSQL.
            async with self._session.begin_nested():
                await self._session.execute(statement)
        except IntegrityError:
            raise ExperimentNameTaken(experiment.name) from None
        tags = EXPERIMENT_TAGS
        await self._session.execute(
            sa.delete(tags).where(tags.c.experiment_id == experiment.experiment_id)
        )
        if experiment.tags:
            rows = [
                {"experiment_id": experiment.experiment_id, "key": key, "value": value}
                for key, value in experiment.tags.items()
            ]
            await self._session.execute(sa.insert(tags), rows)

    async def _one(self, statement: sa.Select[Any]) -> Experiment | None:
        found = await self._many(statement)
        return found[0] if found else None

    async def _many(self, statement: sa.Select[Any]) -> list[Experiment]:
        rows = (await self._session.execute(statement)).all()
        tags = await self._tags([row.experiment_id for row in rows])
        return [_experiment(row, tags.get(row.experiment_id, {})) for row in rows]

    async def _tags(self, experiment_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        if not experiment_ids:
            return {}
        statement = (
            sa.select(EXPERIMENT_TAGS)
            .where(EXPERIMENT_TAGS.c.experiment_id.in_(experiment_ids))
            .order_by(EXPERIMENT_TAGS.c.key)
        )
        tags: dict[str, dict[str, str]] = {}
        for experiment_id, key, value in await self._session.execute(statement):
            tags.setdefault(experiment_id, {})[key] = value
        return tags


_SELECT = sa.select(EXPERIMENTS).where(EXPERIMENTS.c.stage != PURGING)


def _row(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": experiment.experiment_id,
        "name": experiment.name,
        "artifact_location": experiment.artifact_location,
        "stage": str(experiment.stage),
        "created_by": experiment.created_by,
        "created_at": experiment.created_at,
        "updated_at": experiment.updated_at,
        "deleted_at": experiment.deleted_at,
        "etag": experiment.etag,
    }


def _experiment(row: Any, tags: dict[str, str]) -> Experiment:
    return Experiment(
        experiment_id=row.experiment_id,
        name=row.name,
        artifact_location=row.artifact_location,
        stage=LifecycleStage(row.stage),
        tags=tags,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        deleted_at=row.deleted_at,
        etag=row.etag,
    )
