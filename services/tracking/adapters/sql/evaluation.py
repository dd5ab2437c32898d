"""Evaluation data sets and scorers in SQL."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.search import Search
from services.tracking.adapters.sql.tables import (
    EVALUATION_DATASETS,
    EVALUATION_EXPERIMENTS,
    EVALUATION_RECORDS,
    EVALUATION_TAGS,
    SCORERS,
)
from services.tracking.domain.evaluation import (
    EvaluationDataset,
    EvaluationRecord,
    ScorerVersion,
)
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.syntax import FieldKind
from services.tracking.ports.evaluation import EvaluationQuery

__all__ = ["SqlEvaluation", "SqlScorers"]

_DATASETS, _RECORDS = EVALUATION_DATASETS, EVALUATION_RECORDS


class _DatasetSearch(Search):
    table = _DATASETS
    parent = _DATASETS.c.dataset_id
    time = _DATASETS.c.created_at
    id = _DATASETS.c.dataset_id
    attributes: ClassVar[dict[str, sa.ColumnElement[Any]]] = {
        "name": _DATASETS.c.name,
        "created_by": _DATASETS.c.created_by,
        "last_updated_by": _DATASETS.c.updated_by,
        "created_time": _DATASETS.c.created_at,
        "last_update_time": _DATASETS.c.updated_at,
    }
    pairs: ClassVar[dict[FieldKind, sa.Table]] = {FieldKind.TAG: EVALUATION_TAGS}

    def statement(self, query: EvaluationQuery) -> sa.Select[Any]:
        select = _SELECT
        if query.experiment_ids:
            of = EVALUATION_EXPERIMENTS.c
            theirs = of.experiment_id.in_(sorted(query.experiment_ids))
            select = select.where(sa.exists().where(of.dataset_id == self.id, theirs))
        return self._page(
            select,
            conditions=query.filter,
            order=query.order,
            after=query.after,
            limit=query.limit,
        )


class SqlEvaluation:
    """The store of evaluation data sets in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, dataset_id: str) -> EvaluationDataset | None:
        """Return the data set; None when there is none."""
        found = await self._read(_SELECT.where(_DATASETS.c.dataset_id == dataset_id))
        return found[0] if found else None

    async def lock(self, dataset_id: str) -> EvaluationDataset | None:
        """As `get`; until the work ends nobody else changes it."""
        own = _DATASETS.c.dataset_id == dataset_id
        await self._session.execute(sa.select(_DATASETS.c.dataset_id).where(own).with_for_update())
        return await self.get(dataset_id)

    async def find(self, query: EvaluationQuery) -> list[EvaluationDataset]:
        """Return data sets in order."""
        search = _DatasetSearch(self._session.get_bind().dialect.name)
        return await self._read(search.statement(query))

    async def put(self, dataset: EvaluationDataset) -> None:
        """Store a new data set, or the new state of a locked one; its records stay."""
        own = _DATASETS.c.dataset_id == dataset.dataset_id
        changed = sa.update(_DATASETS).where(own).values(_row(dataset))
        cursor: Any = await self._session.execute(changed)
        if not cursor.rowcount:
            await self._session.execute(sa.insert(_DATASETS).values(_row(dataset)))
        for table in (EVALUATION_TAGS, EVALUATION_EXPERIMENTS):
            await self._session.execute(
                sa.delete(table).where(table.c.dataset_id == dataset.dataset_id)
            )
        for table, rows in (
            (EVALUATION_TAGS, [{"key": k, "value": v} for k, v in dataset.tags.items()]),
            (EVALUATION_EXPERIMENTS, [{"experiment_id": one} for one in dataset.experiment_ids]),
        ):
            if rows:
                own_rows = [{"dataset_id": dataset.dataset_id, **row} for row in rows]
                await self._session.execute(sa.insert(table), own_rows)

    async def delete(self, dataset_id: str) -> None:
        """Forget a data set and its records."""
        for table in (EVALUATION_TAGS, EVALUATION_EXPERIMENTS, _RECORDS, _DATASETS):
            await self._session.execute(sa.delete(table).where(table.c.dataset_id == dataset_id))

    async def records_of(
        self, dataset_id: str, hashes: Collection[str]
    ) -> dict[str, EvaluationRecord]:
        """Return the records that have these inputs, by the hash of their inputs."""
        statement = sa.select(_RECORDS).where(
            _RECORDS.c.dataset_id == dataset_id, _RECORDS.c.input_hash.in_(sorted(set(hashes)))
        )
        rows = await self._session.execute(statement)
        return {row.input_hash: _record(row.document) for row in rows}

    async def put_records(self, dataset_id: str, records: Mapping[str, EvaluationRecord]) -> None:
        """Store records of a locked data set, by the hash of their inputs."""
        if not records:
            return
        await self._session.execute(
            sa.delete(_RECORDS).where(
                _RECORDS.c.dataset_id == dataset_id, _RECORDS.c.input_hash.in_(sorted(records))
            )
        )
        rows = [
            {
                "dataset_id": dataset_id,
                "record_id": record.record_id,
                "input_hash": key,
                "created_at": record.created_at,
                "document": json.dumps(asdict(record), ensure_ascii=False),
            }
            for key, record in records.items()
        ]
        await self._session.execute(sa.insert(_RECORDS), rows)

    async def records(
        self, dataset_id: str, *, after: tuple[Micros, str] | None, limit: int
    ) -> list[EvaluationRecord]:
        """Return records by their creation, behind a place."""
        at, record_id = _RECORDS.c.created_at, _RECORDS.c.record_id
        statement = sa.select(_RECORDS.c.document).where(_RECORDS.c.dataset_id == dataset_id)
        if after is not None:
            later = sa.and_(at == after[0], record_id > after[1])
            statement = statement.where(sa.or_(at > after[0], later))
        statement = statement.order_by(at, record_id).limit(limit)
        rows = (await self._session.execute(statement)).scalars()
        return [_record(document) for document in rows]

    async def delete_records(self, dataset_id: str, record_ids: Collection[str]) -> int:
        """Forget records; return how many there were."""
        statement = sa.delete(_RECORDS).where(
            _RECORDS.c.dataset_id == dataset_id,
            _RECORDS.c.record_id.in_(sorted(set(record_ids))),
        )
        cursor: Any = await self._session.execute(statement)
        return int(cursor.rowcount)

    async def _read(self, statement: sa.Select[Any]) -> list[EvaluationDataset]:
        rows = (await self._session.execute(statement)).all()
        ids = [row.dataset_id for row in rows]
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        experiments: dict[str, list[str]] = defaultdict(list)
        for dataset_id, key, value in await self._parts(EVALUATION_TAGS, ids):
            tags[dataset_id][key] = value
        for dataset_id, experiment_id in await self._parts(EVALUATION_EXPERIMENTS, ids):
            experiments[dataset_id].append(experiment_id)
        return [
            EvaluationDataset(
                dataset_id=row.dataset_id,
                name=row.name,
                owner=row.owner,
                created_by=row.created_by,
                updated_by=row.updated_by,
                created_at=row.created_at,
                updated_at=row.updated_at,
                schema=None if row.schema is None else json.loads(row.schema),
                tags=tags[row.dataset_id],
                experiment_ids=tuple(sorted(experiments[row.dataset_id])),
                records=row.records,
            )
            for row in rows
        ]

    async def _parts(self, table: sa.Table, dataset_ids: Sequence[str]) -> Any:
        statement = sa.select(table).where(table.c.dataset_id.in_(dataset_ids))
        return await self._session.execute(statement)


class SqlScorers:
    """The store of scorers in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def of(self, experiment_ids: Collection[str], name: str | None) -> list[ScorerVersion]:
        """Return versions of scorers by experiment, name and version."""
        statement = sa.select(SCORERS).where(SCORERS.c.experiment_id.in_(sorted(experiment_ids)))
        if name is not None:
            statement = statement.where(SCORERS.c.name == name)
        order = (SCORERS.c.experiment_id, SCORERS.c.name, SCORERS.c.version)
        rows = (await self._session.execute(statement.order_by(*order))).mappings()
        return [ScorerVersion(**row) for row in rows]

    async def add(self, scorer: ScorerVersion) -> None:
        """Store a new version."""
        await self._session.execute(sa.insert(SCORERS).values(asdict(scorer)))

    async def delete(self, experiment_id: str, name: str, version: int | None) -> int:
        """Forget a version, or all; return how many there were."""
        statement = sa.delete(SCORERS).where(
            SCORERS.c.experiment_id == experiment_id, SCORERS.c.name == name
        )
        if version is not None:
            statement = statement.where(SCORERS.c.version == version)
        cursor: Any = await self._session.execute(statement)
        return int(cursor.rowcount)


_COUNT = (
    sa.select(sa.func.count())
    .where(_RECORDS.c.dataset_id == _DATASETS.c.dataset_id)
    .scalar_subquery()
)
_SELECT = sa.select(_DATASETS, _COUNT.label("records"))


def _row(dataset: EvaluationDataset) -> dict[str, Any]:
    return {
        "dataset_id": dataset.dataset_id,
        "name": dataset.name,
        "owner": dataset.owner,
        "digest": dataset.digest,
        "schema": None if dataset.schema is None else json.dumps(dataset.schema),
        "created_by": dataset.created_by,
        "updated_by": dataset.updated_by,
        "created_at": dataset.created_at,
        "updated_at": dataset.updated_at,
    }


def _record(document: str) -> EvaluationRecord:
    return EvaluationRecord(**json.loads(document))
