"""Runs in SQL, with their parameters, tags, inputs and latest metrics."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.metrics import point_of
from services.tracking.adapters.sql.run_numbers import Narrowing, RunNumbers
from services.tracking.adapters.sql.tables import (
    LATEST_METRICS,
    PURGING,
    RUN_INPUTS,
    RUN_PARAMS,
    RUN_TAGS,
    RUNS,
)
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.metrics import Extremes, Point
from services.tracking.domain.run import DatasetInput, DatasetUse, Run, RunInfo, RunStatus
from services.tracking.ports.store import RunQuery

__all__ = ["SqlRuns", "run_row"]

# Runs whose data is read at once: a page of 100, and what tells that there are more.
_SLICE = 101


class SqlRuns:
    """The run store in the transaction of a session.

    Args:
        session: The transaction.
        numbers: Filled with the numbers of the runs that the session locked, by run id.
        narrowing: When searches look at candidates.
    """

    def __init__(
        self, session: AsyncSession, numbers: dict[str, int], narrowing: Narrowing
    ) -> None:
        self._session = session
        self._numbers = numbers
        self._narrowing = narrowing

    async def get(self, run_id: str) -> Run | None:
        """Return the run with all that was logged; None when there is none."""
        row = (await self._session.execute(_SELECT.where(RUNS.c.run_id == run_id))).first()
        return None if row is None else (await self._with_data([row]))[0]

    async def info(self, run_id: str) -> RunInfo | None:
        """Return the run itself; None when there is none."""
        row = (await self._session.execute(_SELECT.where(RUNS.c.run_id == run_id))).first()
        return None if row is None else _info(row)

    async def find(self, query: RunQuery) -> AsyncGenerator[Run, None]:
        """Yield runs in order; what they hold is read in slices, as it goes on."""
        numbers = await RunNumbers(self._session, self._narrowing).find(query)
        for at in range(0, len(numbers), _SLICE):
            some = numbers[at : at + _SLICE]
            found = await self._session.execute(_SELECT.where(RUNS.c.run_no.in_(some)))
            rows = {row.run_no: row for row in found}
            for run in await self._with_data([rows[number] for number in some]):
                yield run

    async def datasets(self, experiment_ids: Collection[str], *, limit: int) -> list[DatasetUse]:
        """Return data sets that runs of experiments used, each once, in order."""
        dataset = RUN_INPUTS.c
        columns = (RUNS.c.experiment_id, dataset.name, dataset.digest, dataset.context)
        statement = (
            sa.select(*columns)
            .join(RUN_INPUTS, dataset.run_no == RUNS.c.run_no)
            .where(RUNS.c.experiment_id.in_(sorted(experiment_ids)), RUNS.c.stage != PURGING)
            .distinct()
            .order_by(*columns)
            .limit(limit)
        )
        rows = await self._session.execute(statement)
        return [DatasetUse(experiment_id, DatasetInput(*one)) for experiment_id, *one in rows]

    async def lock(self, run_ids: Collection[str]) -> dict[str, RunInfo]:
        """Return the runs that there are, held until the transaction ends."""
        statement = _SELECT.where(RUNS.c.run_id.in_(sorted(run_ids)))
        rows = await self._session.execute(statement.order_by(RUNS.c.run_no).with_for_update())
        found: dict[str, RunInfo] = {}
        for row in rows:
            self._numbers[row.run_id] = row.run_no
            found[row.run_id] = _info(row)
        return found

    async def put(self, run: RunInfo) -> None:
        """Store the new state of a locked run."""
        await self._session.execute(
            sa.update(RUNS).where(RUNS.c.run_id == run.run_id).values(run_row(run))
        )

    async def move_all(self, experiment_id: str, stage: LifecycleStage, *, at: Micros) -> None:
        """Delete the active runs of a locked experiment, or restore those deleted with it."""
        deleting = stage is LifecycleStage.DELETED
        before = LifecycleStage.ACTIVE if deleting else LifecycleStage.DELETED
        moved = [RUNS.c.experiment_id == experiment_id, RUNS.c.stage == str(before)]
        if not deleting:
            moved.append(RUNS.c.deleted_with_experiment)
        # Locked in the order of `lock` first: an update takes rows as it comes across them.
        locked = sa.select(RUNS.c.run_no).where(*moved).order_by(RUNS.c.run_no).with_for_update()
        await self._session.execute(locked)
        values = {
            "stage": str(stage),
            "deleted_with_experiment": deleting,
            "deleted_at": at if deleting else None,
        }
        await self._session.execute(sa.update(RUNS).where(*moved).values(values))

    async def remove_tag(self, run_id: str, key: str) -> bool:
        """Remove a tag of a locked run; return whether it had it."""
        own = (RUN_TAGS.c.run_no == self._numbers[run_id], RUN_TAGS.c.key == key)
        removed = await self._session.execute(sa.delete(RUN_TAGS).where(*own).returning(sa.true()))
        return removed.first() is not None

    async def _rows_of(self, table: sa.Table, run_numbers: Sequence[int]) -> Sequence[Any]:
        statement = sa.select(table).where(table.c.run_no.in_(run_numbers))
        return (await self._session.execute(statement.order_by(*list(table.c)[1:]))).all()

    async def _with_data(self, rows: Sequence[Any]) -> list[Run]:
        numbers = [row.run_no for row in rows]
        params: dict[int, dict[str, str]] = {number: {} for number in numbers}
        tags: dict[int, dict[str, str]] = {number: {} for number in numbers}
        metrics: dict[int, dict[str, Point]] = {number: {} for number in numbers}
        inputs: dict[int, list[DatasetInput]] = {number: [] for number in numbers}
        for run_no, key, value in await self._rows_of(RUN_PARAMS, numbers):
            params[run_no][key] = value
        for run_no, key, value in await self._rows_of(RUN_TAGS, numbers):
            tags[run_no][key] = value
        extremes: dict[int, dict[str, Extremes]] = {number: {} for number in numbers}
        for run_no, key, minimum, maximum, *point in await self._metrics_of(numbers):
            metrics[run_no][key] = point_of(key, *point)
            if minimum is not None:
                extremes[run_no][key] = Extremes(minimum, maximum)
        for run_no, *values in await self._rows_of(RUN_INPUTS, numbers):
            inputs[run_no].append(DatasetInput(*values))
        return [
            Run(_info(row), params[no], metrics[no], tags[no], tuple(inputs[no]), extremes[no])
            for row, no in zip(rows, numbers, strict=True)
        ]

    async def _metrics_of(self, run_numbers: Sequence[int]) -> Sequence[Any]:
        latest = LATEST_METRICS.c
        columns = (
            latest.run_no,
            latest.key,
            latest.min_value,
            latest.max_value,
            latest.step,
            latest.timestamp,
            latest.is_nan,
            latest.value,
        )
        statement = sa.select(*columns).where(latest.run_no.in_(run_numbers))
        return (await self._session.execute(statement.order_by(latest.key))).all()


_SELECT = sa.select(RUNS).where(RUNS.c.stage != PURGING)


def run_row(run: RunInfo) -> dict[str, Any]:
    """Return a run as columns of RUNS, but for its number."""
    return {
        "run_id": run.run_id,
        "experiment_id": run.experiment_id,
        "name": run.name,
        "status": str(run.status),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "artifact_location": run.artifact_location,
        "stage": str(run.stage),
        "deleted_with_experiment": run.deleted_with_experiment,
        "created_by": run.created_by,
        "etag": run.etag,
        "deleted_at": run.deleted_at,
    }


def _info(row: Any) -> RunInfo:
    return RunInfo(
        run_id=row.run_id,
        experiment_id=row.experiment_id,
        name=row.name,
        status=RunStatus(row.status),
        started_at=row.started_at,
        ended_at=row.ended_at,
        artifact_location=row.artifact_location,
        stage=LifecycleStage(row.stage),
        deleted_with_experiment=bool(row.deleted_with_experiment),
        created_by=row.created_by,
        etag=row.etag,
        deleted_at=row.deleted_at,
    )
