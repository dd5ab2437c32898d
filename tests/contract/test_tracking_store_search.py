"""One body over every implementation of tracking's store: searches."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.metrics import Point
from services.tracking.domain.run import DatasetInput, Run, RunStatus
from services.tracking.domain.search.evaluate import run_values
from services.tracking.domain.search.paging import position_after
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import RUNS
from services.tracking.ports.store import ExperimentQuery, RunQuery, Store
from services.tracking.ports.transaction import RequestKey
from tests.tracking_database import STORES, opened_store
from tests.tracking_rows import experiment, given, log, run


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


async def find(store: Store, text: str = "", *order: str, limit: int = 100) -> list[str]:
    query = RunQuery(
        experiment_ids=["e1", "e2"],
        filter=parse_filter(text, RUNS),
        order=parse_order_by(order, RUNS),
        limit=limit,
    )
    async with store.read() as view:
        return [one.info.run_id async for one in view.runs.find(query)]


async def test_any_stage_can_be_asked_for(store: Store) -> None:
    async with store.write() as work:
        for number, stage in enumerate(LifecycleStage, 1):
            await work.experiments.add(experiment(number, stage=stage))
        await work.commit()
    staged = [Run(run(at, "e1", stage=stage)) for at, stage in enumerate(LifecycleStage, 1)]
    await store.transact(lambda work: work.add_runs(staged))
    async with store.read() as view:
        experiments = await view.experiments.find(ExperimentQuery(stage=None, limit=9))
        query = RunQuery(experiment_ids=["e1"], stage=None, limit=9)
        runs = [one async for one in view.runs.find(query)]
    assert [one.experiment_id for one in experiments] == ["e2", "e1"]
    assert [one.info.run_id for one in runs] == ["r2", "r1"]


async def test_runs_go_and_come_back_with_their_experiment(store: Store) -> None:
    gone = run(2, stage=LifecycleStage.DELETED)
    await given(store, run(1), gone, run(3, "e2"))
    async with store.write() as work:
        await work.runs.move_all("e1", LifecycleStage.DELETED, at=9)
        await work.commit()
    async with store.read() as view:
        first = await view.runs.info("r1")
        gone_too = {"deleted_with_experiment": True, "deleted_at": 9}
        assert first == run(stage=LifecycleStage.DELETED, **gone_too)
        assert await view.runs.info("r3") == run(3, "e2")
    async with store.write() as work:
        await work.runs.move_all("e1", LifecycleStage.ACTIVE, at=10)
        await work.commit()
    async with store.read() as view:
        assert await view.runs.info("r1") == run(1)
        assert await view.runs.info("r2") == gone


async def test_a_request_creates_once(store: Store) -> None:
    key = RequestKey("ada", "CreateRun", "42")
    async with store.write() as work:
        assert await work.claim(key, "r1") is None
        await work.commit()
    async with store.write() as work:
        assert await work.claim(key, "r2") == "r1"
        assert await work.claim(RequestKey("bob", "CreateRun", "42"), "r3") is None
    assert await store.transact(lambda work: work.claim(key, "r2")) == "r1"
    assert await store.transact(lambda work: work.result_of(key)) == "r1"
    other = replace(key, request_id="43")
    assert await store.transact(lambda work: (work.claim(other, "r4"), work.result_of(other))) == (
        None,
        "r4",
    )
    async with store.read() as view:
        assert await view.result_of(key) == "r1"
        assert await view.result_of(RequestKey("bob", "CreateRun", "42")) is None


@pytest.fixture
async def searched(store: Store) -> Store:
    await given(
        store,
        run(1, name="alpha_1", status=RunStatus.FINISHED, ended_at=2_000_000),
        run(2, name="Beta%", created_by="bob"),
        run(3, "e2", name="it's"),
        run(4, name="hidden", stage=LifecycleStage.DELETED),
        run(5, name="last"),
    )
    await log(
        store, "r1", Point("auc", 1, 1, 0.7), params={"hidden": "64"}, tags={"a b": "Größe"},
        inputs=(DatasetInput("main.flights.jan", "d1", "training"), DatasetInput("other")),
    )  # fmt: skip
    await log(store, "r2", Point("auc", 1, 1, math.nan), params={"hidden": "128"})
    await log(store, "r3", Point("auc", 1, 1, 0.9), tags={"a b": "x\ny", "c": "back\\slash[*?"})
    return store


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r5 r3 r2 r1"),
        ("metrics.auc > 0.7", "r3"),
        ("metrics.auc >= 0.7 AND metric.`auc` < 1", "r3 r1"),
        ("metrics.auc != 0.9", "r2 r1"),
        ("metrics.auc != 0", "r3 r2 r1"),
        ("metrics.auc >= 0", "r3 r1"),
        ("metrics.auc = 0.7", "r1"),
        ("metrics.auc > -1e999", "r3 r1"),
        ("params.hidden = '64'", "r1"),
        ("params.hidden != '64'", "r2"),
        ("param.hidden IS NULL", "r5 r3"),
        ("parameters.hidden is not null", "r2 r1"),
        ("params.hidden LIKE '_2_'", "r2"),
        ('tags."a b" = "Größe"', "r1"),
        ("tags.`a b` LIKE 'x_y'", "r3"),
        ("tag.c LIKE '%\\s%[*?'", "r3"),
        ("tag.c LIKE 'BACK%'", ""),
        ("tag.c ILIKE 'BACK%'", "r3"),
        ("attributes.status = 'FINISHED'", "r1"),
        ("status != 'FINISHED'", "r5 r3 r2"),
        ("attr.run_name LIKE 'b%'", ""),
        ("attr.run_name ILIKE 'b%'", "r2"),
        ("run.`run name` LIKE '%\\%'", ""),
        ("run.`Run Name` = 'it''s'", "r3"),
        ("user_id = 'bob'", "r2"),
        ("run_id IN ('r1', \"r5\", 'r4')", "r5 r1"),
        ("attributes.run_id NOT IN ('r1')", "r5 r3 r2"),
        ("start_time > 1000", ""),
        ("start_time >= 1000", "r5 r3 r2 r1"),
        ("created = 1000", "r5 r3 r2 r1"),
        ("start_time != 1000", ""),
        ("end_time <= 2000", "r1"),
        ("end_time < 2000", ""),
        ("dataset.name LIKE 'main.flights.%' AND datasets.context = 'training'", "r1"),
        ("dataset.name NOT IN ('other')", "r1"),
        ("dataset.digest IN ('d1', 'd2')", "r1"),
    ],
)
async def test_filters(searched: Store, text: str, expected: str) -> None:
    assert " ".join(await find(searched, text)) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["metrics.auc"], "r1 r3 r2 r5"),
        (["metrics.auc DESC"], "r3 r1 r2 r5"),
        (["params.hidden ASC"], "r2 r1 r5 r3"),
        (["params.hidden DESC"], "r1 r2 r5 r3"),
        (["status", "run_name"], "r1 r2 r3 r5"),
        (["end_time desc", "start_time"], "r1 r2 r3 r5"),
        (["attributes.created"], "r1 r2 r3 r5"),
        (["tags.`a b`"], "r1 r3 r5 r2"),
    ],
)
async def test_orders_and_pages(searched: Store, order: list[str], expected: str) -> None:
    assert " ".join(await find(searched, "", *order)) == expected
    query = RunQuery(experiment_ids=["e1", "e2"], order=parse_order_by(order, RUNS), limit=1)
    seen: list[str] = []
    async with searched.read() as view:
        while page := [one async for one in view.runs.find(query)]:
            [one] = page
            seen.append(one.info.run_id)
            after = position_after(
                run_values(one), query.order, time=one.info.started_at, identifier=one.info.run_id
            )
            query = replace(query, after=after)
    assert " ".join(seen) == expected


async def test_only_the_asked_experiments_and_stage_are_searched(searched: Store) -> None:
    async def found(*experiment_ids: str, stage: LifecycleStage) -> list[str]:
        query = RunQuery(experiment_ids=experiment_ids, stage=stage, limit=9)
        return [one.info.run_id async for one in view.runs.find(query)]

    async with searched.read() as view:
        assert await found("e2", stage=LifecycleStage.ACTIVE) == ["r3"]
        assert await found("e1", stage=LifecycleStage.DELETED) == ["r4"]
        assert await found(stage=LifecycleStage.ACTIVE) == []
