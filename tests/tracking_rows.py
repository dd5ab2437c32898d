"""Rows of the tracking store, and what puts and finds them."""

from __future__ import annotations

from dataclasses import replace

from services.tracking.domain.batch import News
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetInput, Run, RunInfo
from services.tracking.ports.store import Store
from services.tracking.ports.transaction import Transaction


def experiment(number: int = 1, **changes: object) -> Experiment:
    made = Experiment(
        experiment_id=f"e{number}",
        name=f"experiment {number}",
        artifact_location=f"s3://bucket/e{number}",
        created_by="ada",
        created_at=1_000_000 + number,
        updated_at=1_000_000 + number,
        etag="first",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def run(number: int = 1, experiment_id: str = "e1", **changes: object) -> RunInfo:
    made = RunInfo(
        run_id=f"r{number}",
        experiment_id=experiment_id,
        name=f"run {number}",
        started_at=1_000_000 + number,
        artifact_location=f"s3://bucket/{experiment_id}/r{number}",
        created_by="ada",
        etag="first",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def given(store: Store, *runs: RunInfo) -> None:
    async with store.write() as work:
        for number in sorted({int(one.experiment_id[1:]) for one in runs} | {1}):
            await work.experiments.add(experiment(number))
        await work.commit()
    await store.transact(lambda work: work.add_runs([Run(one) for one in runs]))


async def log(
    store: Store,
    run_id: str,
    *points: Point,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    inputs: tuple[DatasetInput, ...] = (),
) -> None:
    def task(work: Transaction) -> None:
        work.lock([run_id])
        work.log({run_id: [News(params or {}, tags or {}, inputs)]}, {})
        work.add_points({run_id: Points.of(points)})

    await store.transact(task)
