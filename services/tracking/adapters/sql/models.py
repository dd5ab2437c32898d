"""Logged models in SQL: documents, found by experiment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.tables import (
    LOGGED_MODELS,
    PURGING,
    RUN_DATASETS,
    RUN_MODELS,
)
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.logged_model import (
    LoggedModel,
    ModelLink,
    ModelMetric,
    ModelStatus,
    RunDataset,
)
from services.tracking.domain.metrics import Point

__all__ = ["SqlModels"]

_LIST = 500


class SqlModels:
    """The model store in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, model_id: str) -> LoggedModel | None:
        """Return the model; None when there is none."""
        return await self._one(_DOCUMENT.where(LOGGED_MODELS.c.model_id == model_id))

    async def lock(self, model_id: str) -> LoggedModel | None:
        """As `get`, and hold it; on SQLite the transaction holds the whole database anyway."""
        statement = _DOCUMENT.where(LOGGED_MODELS.c.model_id == model_id)
        return await self._one(statement.with_for_update())

    async def add(self, model: LoggedModel) -> None:
        """Store a new model."""
        await self._session.execute(sa.insert(LOGGED_MODELS).values(_row(model)))

    async def put(self, model: LoggedModel) -> None:
        """Store the new state of a locked model."""
        statement = sa.update(LOGGED_MODELS).where(LOGGED_MODELS.c.model_id == model.model_id)
        await self._session.execute(statement.values(_row(model)))

    async def of_experiments(self, experiment_ids: Collection[str]) -> list[LoggedModel]:
        """Return the active models of experiments, the newest first."""
        models = LOGGED_MODELS.c
        statement = (
            _DOCUMENT.where(models.experiment_id.in_(sorted(experiment_ids)))
            .where(models.stage == str(LifecycleStage.ACTIVE))
            .order_by(models.created_at.desc(), models.model_id.desc())
        )
        return [_model(document) for document in await self._session.scalars(statement)]

    async def link(self, run_id: str, links: Collection[ModelLink]) -> None:
        """Note which models a run used and made."""
        known = set((await self.links([run_id])).get(run_id, ()))
        rows = [{"run_id": run_id, **one._asdict()} for one in sorted(set(links) - known)]
        if rows:
            await self._session.execute(sa.insert(RUN_MODELS), rows)

    async def links(self, run_ids: Collection[str]) -> dict[str, list[ModelLink]]:
        """Return the links of runs that have any."""
        found: dict[str, list[ModelLink]] = {}
        for some in _parts(run_ids):
            statement = sa.select(RUN_MODELS).where(RUN_MODELS.c.run_id.in_(some))
            ordered = statement.order_by(*RUN_MODELS.c)
            for run_id, model_id, is_output, step in await self._session.execute(ordered):
                link = ModelLink(model_id, bool(is_output), step)
                found.setdefault(run_id, []).append(link)
        return found

    async def describe(self, run_id: str, datasets: Collection[RunDataset]) -> None:
        """Note what is told of data sets that a run used."""
        table = RUN_DATASETS.c
        rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        for one in datasets:
            key = {"run_id": run_id, "name": one.name, "digest": one.digest, "context": one.context}
            own = [table[column] == value for column, value in key.items()]
            await self._session.execute(sa.delete(RUN_DATASETS).where(*own))
            document = orjson.dumps(asdict(one))
            rows[one.name, one.digest, one.context] = {**key, "document": document}
        if rows:
            await self._session.execute(sa.insert(RUN_DATASETS), list(rows.values()))

    async def described(self, run_ids: Collection[str]) -> dict[str, list[RunDataset]]:
        """Return what is told of runs' data sets."""
        found: dict[str, list[RunDataset]] = {}
        for some in _parts(run_ids):
            statement = sa.select(RUN_DATASETS.c.run_id, RUN_DATASETS.c.document)
            chosen = statement.where(RUN_DATASETS.c.run_id.in_(some))
            ordered = chosen.order_by(*list(RUN_DATASETS.c)[:4])
            for run_id, document in await self._session.execute(ordered):
                found.setdefault(run_id, []).append(RunDataset(**orjson.loads(document)))
        return found

    async def _one(self, statement: sa.Select[Any]) -> LoggedModel | None:
        document = (await self._session.scalars(statement)).first()
        return None if document is None else _model(document)


_DOCUMENT = sa.select(LOGGED_MODELS.c.document).where(LOGGED_MODELS.c.stage != PURGING)


def _parts(run_ids: Collection[str]) -> Iterator[Sequence[str]]:
    wanted = sorted(run_ids)
    for at in range(0, len(wanted), _LIST):
        yield wanted[at : at + _LIST]


def _row(model: LoggedModel) -> dict[str, Any]:
    document = asdict(model)
    # JSON has no NaN, and no double's every bit.
    document["metrics"] = [
        (*one.point[:3], one.point.value.hex(), *one[1:]) for one in model.metrics
    ]
    return {
        "model_id": model.model_id,
        "experiment_id": model.experiment_id,
        "stage": str(model.stage),
        "created_at": model.created_at,
        # Nothing changes a model once it is deleted.
        "deleted_at": model.updated_at if model.stage is LifecycleStage.DELETED else None,
        "document": orjson.dumps(document),
    }


def _model(document: bytes) -> LoggedModel:
    fields = orjson.loads(document)
    fields["metrics"] = tuple(
        ModelMetric(Point(key, step, timestamp, float.fromhex(value)), *rest)
        for key, step, timestamp, value, *rest in fields["metrics"]
    )
    fields["status"] = ModelStatus(fields["status"])
    fields["stage"] = LifecycleStage(fields["stage"])
    return LoggedModel(**fields)
