"""What was deleted, and what is being removed for good, in SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.tables import (
    ASSESSMENTS,
    EVALUATION_EXPERIMENTS,
    EXPERIMENT_TAGS,
    EXPERIMENTS,
    LATEST_METRICS,
    LOGGED_MODELS,
    POINT_LOG,
    PURGES,
    PURGING,
    REVIEW_ITEMS,
    REVIEWS,
    RUN_DATASETS,
    RUN_INPUTS,
    RUN_MODELS,
    RUN_PARAMS,
    RUN_TAGS,
    RUNS,
    SCORERS,
    TRACE_LINKS,
    TRACE_METADATA,
    TRACE_TAGS,
    TRACES,
)
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.retention import Deleted, Kind, Purge
from tessera_kit.ids import new_id

__all__ = ["SqlPurges"]

_AT_ONCE: Final = 500
_TABLES: Final = {Kind.EXPERIMENT: EXPERIMENTS, Kind.RUN: RUNS, Kind.MODEL: LOGGED_MODELS}
_IDS: Final[Mapping[Kind, sa.Column[str]]] = {
    Kind.EXPERIMENT: EXPERIMENTS.c.experiment_id,
    Kind.RUN: RUNS.c.run_id,
    Kind.MODEL: LOGGED_MODELS.c.model_id,
}
_OF_RUN_NUMBER: Final = (RUN_PARAMS, RUN_TAGS, RUN_INPUTS, LATEST_METRICS, POINT_LOG)
_OF_RUN_ID: Final = (RUN_DATASETS, RUN_MODELS)
_OF_TRACE: Final = (TRACE_TAGS, TRACE_METADATA, TRACE_LINKS, ASSESSMENTS)
_OF_EXPERIMENT: Final = (
    LOGGED_MODELS,
    REVIEWS,
    SCORERS,
    EVALUATION_EXPERIMENTS,
    EXPERIMENT_TAGS,
)


class SqlPurges:
    """The store of purges in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def deleted(self, kind: Kind, *, by: Micros, limit: int) -> list[Deleted]:
        """Return what was deleted by a time, the earliest first."""
        table = _TABLES[kind]
        statement = (
            sa.select(table)
            .where(table.c.deleted_at <= by, table.c.stage == str(LifecycleStage.DELETED))
            .order_by(table.c.deleted_at, _IDS[kind])
            .limit(limit)
        )
        if kind is Kind.RUN:
            statement = statement.where(sa.not_(RUNS.c.deleted_with_experiment))
        return [_deleted(kind, row) for row in await self._session.execute(statement)]

    async def known(self, kind: Kind, ids: Collection[str]) -> dict[str, Deleted]:
        """Return what there is of ids, deleted or not."""
        found: dict[str, Deleted] = {}
        for some in _parts(ids):
            table = _TABLES[kind]
            statement = sa.select(table).where(_IDS[kind].in_(some), table.c.stage != PURGING)
            for row in await self._session.execute(statement):
                one = _deleted(kind, row)
                found[one.id] = one
        return found

    async def mark(self, kind: Kind, ids: Collection[str], *, by: Micros, at: Micros) -> set[str]:
        """Mark what was deleted by a time, an experiment with all of its runs and models."""
        table = _TABLES[kind]
        marked: set[str] = set()
        for some in _parts(ids):
            chosen = [
                _IDS[kind].in_(some),
                table.c.stage == str(LifecycleStage.DELETED),
                table.c.deleted_at <= by,
            ]
            order = RUNS.c.run_no if kind is Kind.RUN else _IDS[kind]
            # Locked in the order of all callers first: an update takes rows as it meets them.
            locked = sa.select(order).where(*chosen).order_by(order).with_for_update()
            await self._session.execute(locked)
            taken = (
                sa.update(table)
                .where(*chosen)
                .values(stage=PURGING)
                .returning(_IDS[kind], table.c.experiment_id)
            )
            homes = {row[0]: row[1] for row in await self._session.execute(taken)}
            await self._note(kind, homes, at)
            marked |= homes.keys()
        if kind is Kind.EXPERIMENT:
            for experiment_id in sorted(marked):
                await self._mark_inside(experiment_id)
        return marked

    async def waiting(self, now: Micros, *, limit: int) -> list[Purge]:
        """Return purges that are due, the earliest first."""
        purges = PURGES.c
        statement = (
            sa.select(purges.kind, purges.id, purges.experiment_id, purges.is_late)
            .where(purges.due_at <= now)
            .order_by(purges.due_at, purges.kind, purges.id)
            .limit(limit)
        )
        rows = await self._session.execute(statement)
        return [Purge(Kind(kind), one, home, bool(is_late)) for kind, one, home, is_late in rows]

    async def under_way(self) -> int:
        """Return how many purges have not removed everything once."""
        count = sa.select(sa.func.count()).select_from(PURGES)
        return int(await self._session.scalar(count.where(sa.not_(PURGES.c.is_late))) or 0)

    async def inside(self, kind: Kind, experiment_id: str, *, limit: int) -> list[str]:
        """Return ids of marked runs or models of an experiment."""
        table = _TABLES[kind]
        theirs = (table.c.experiment_id == experiment_id, table.c.stage == PURGING)
        statement = sa.select(_IDS[kind]).where(*theirs).limit(limit)
        return list(await self._session.scalars(statement))

    async def traces_inside(self, experiment_id: str, *, limit: int) -> list[str]:
        """Return ids of traces of a marked experiment."""
        statement = sa.select(TRACES.c.trace_id).where(TRACES.c.experiment_id == experiment_id)
        return list(await self._session.scalars(statement.limit(limit)))

    async def remove_traces(self, trace_ids: Collection[str]) -> None:
        """Remove traces of marked experiments, with all that is said of them."""
        for some in _parts(trace_ids):
            await self._delete(REVIEW_ITEMS, REVIEW_ITEMS.c.item_id.in_(some))
            for table in (*_OF_TRACE, TRACES):
                await self._delete(table, table.c.trace_id.in_(some))

    async def remove(self, kind: Kind, ids: Collection[str]) -> set[str]:
        """Remove the rows of what is marked, with all that hangs on them."""
        removed: set[str] = set()
        for some in _parts(ids):
            order = RUNS.c.run_no if kind is Kind.RUN else _IDS[kind]
            held = (
                sa.select(_IDS[kind])
                .where(_IDS[kind].in_(some), _TABLES[kind].c.stage == PURGING)
                .order_by(order)
                .with_for_update()
            )
            # From here on nothing is added to an experiment.
            marked = list(await self._session.scalars(held))
            if kind is Kind.RUN:
                await self._empty_runs(marked)
            elif kind is Kind.MODEL:
                await self._delete(RUN_MODELS, RUN_MODELS.c.model_id.in_(marked))
            else:
                await self._empty_experiments(marked)
            await self._delete(_TABLES[kind], _IDS[kind].in_(marked))
            removed.update(marked)
        return removed

    async def put_off(self, purges: Sequence[Purge], due_at: Micros, *, is_late: bool) -> None:
        """Note when purges are due next, and whether everything was removed once."""
        for kind, ids in _by_kind(purges):
            own = (PURGES.c.kind == str(kind), PURGES.c.id.in_(ids))
            values = {"due_at": due_at, "is_late": is_late}
            await self._session.execute(sa.update(PURGES).where(*own).values(values))

    async def settle(self, purges: Sequence[Purge]) -> None:
        """Forget purges that are done."""
        for kind, ids in _by_kind(purges):
            await self._delete(PURGES, PURGES.c.kind == str(kind), PURGES.c.id.in_(ids))

    async def _note(self, kind: Kind, homes: Mapping[str, str], at: Micros) -> None:
        rows = [
            {"kind": str(kind), "id": one, "experiment_id": homes[one], "due_at": at}
            for one in sorted(homes)
        ]
        if rows:
            await self._session.execute(sa.insert(PURGES).values(is_late=False), rows)

    async def _mark_inside(self, experiment_id: str) -> None:
        # Its name is free for another one; nobody can guess what it is called now.
        freed = sa.update(EXPERIMENTS).where(EXPERIMENTS.c.experiment_id == experiment_id)
        await self._session.execute(freed.values(name=f"{PURGING} {new_id()}"))
        runs = RUNS.c.experiment_id == experiment_id
        locked = sa.select(RUNS.c.run_no).where(runs).order_by(RUNS.c.run_no).with_for_update()
        await self._session.execute(locked)
        await self._session.execute(sa.update(RUNS).where(runs).values(stage=PURGING))
        models = LOGGED_MODELS.c.experiment_id == experiment_id
        await self._session.execute(sa.update(LOGGED_MODELS).where(models).values(stage=PURGING))

    async def _empty_runs(self, run_ids: Sequence[str]) -> None:
        numbers = sa.select(RUNS.c.run_no).where(RUNS.c.run_id.in_(run_ids))
        found = list(await self._session.scalars(numbers))
        for table in _OF_RUN_NUMBER:
            await self._delete(table, table.c.run_no.in_(found))
        for table in _OF_RUN_ID:
            await self._delete(table, table.c.run_id.in_(run_ids))
        links = TRACE_LINKS.c
        await self._delete(TRACE_LINKS, links.kind == "run", links.value.in_(run_ids))

    async def _empty_experiments(self, experiment_ids: Sequence[str]) -> None:
        models = LOGGED_MODELS.c
        theirs = sa.select(models.model_id).where(models.experiment_id.in_(experiment_ids))
        await self._delete(RUN_MODELS, RUN_MODELS.c.model_id.in_(theirs))
        traces = sa.select(TRACES.c.trace_id).where(TRACES.c.experiment_id.in_(experiment_ids))
        await self.remove_traces(list(await self._session.scalars(traces)))
        queues = sa.select(REVIEWS.c.id).where(REVIEWS.c.experiment_id.in_(experiment_ids))
        await self._delete(REVIEW_ITEMS, REVIEW_ITEMS.c.queue_id.in_(queues))
        for table in _OF_EXPERIMENT:
            await self._delete(table, table.c.experiment_id.in_(experiment_ids))

    async def _delete(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> None:
        await self._session.execute(sa.delete(table).where(*where))


def _deleted(kind: Kind, row: Any) -> Deleted:
    if kind is Kind.MODEL:
        document = orjson.loads(row.document)
        name, created_by = document["name"], document["created_by"]
    else:
        name, created_by = row.name, row.created_by
    is_active = row.stage == LifecycleStage.ACTIVE
    return Deleted(
        kind=kind,
        id=getattr(row, _IDS[kind].name),
        experiment_id=row.experiment_id,
        name=name,
        created_by=created_by,
        deleted_at=None if is_active else row.deleted_at,
    )


def _by_kind(purges: Sequence[Purge]) -> Iterable[tuple[Kind, Sequence[str]]]:
    for kind in Kind:
        for some in _parts([one.id for one in purges if one.kind is kind]):
            yield kind, some


def _parts(ids: Collection[str]) -> Iterable[Sequence[str]]:
    ordered = sorted({one for one in ids if "\x00" not in one})
    return (ordered[at : at + _AT_ONCE] for at in range(0, len(ordered), _AT_ONCE))
