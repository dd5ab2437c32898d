"""One body over every implementation of the store of purges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from services.tracking.domain.evaluation import ScorerVersion
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.logged_model import LoggedModel, ModelLink, RunDataset
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.retention import Deleted, Kind, Purge
from services.tracking.domain.run import DatasetInput, Run, RunInfo
from services.tracking.domain.traces.trace import Trace
from services.tracking.ports.store import ExperimentQuery, RunQuery, Store
from services.tracking.ports.traces import TraceQuery
from tests.tracking_database import STORES, append, opened_store
from tests.tracking_rows import experiment, given, log, run

GONE = LifecycleStage.DELETED
EVER = 2**62


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


def deleted_run(number: int, at: int, experiment_id: str = "e1") -> RunInfo:
    return run(number, experiment_id, stage=GONE, deleted_at=at)


def model(number: int, **changes: object) -> LoggedModel:
    made = LoggedModel(
        model_id=f"m-{number}",
        experiment_id="e1",
        name=f"model {number}",
        created_by="ada",
        created_at=1,
        updated_at=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def mark(store: Store, kind: Kind, *ids: str, by: int = EVER, at: int = 50) -> set[str]:
    async with store.write() as work:
        marked = await work.purges.mark(kind, ids, by=by, at=at)
        await work.commit()
    return marked


async def remove(store: Store, kind: Kind, *ids: str) -> set[str]:
    async with store.write() as work:
        removed = await work.purges.remove(kind, ids)
        await work.commit()
    return removed


async def found(store: Store, kind: Kind, by: int = EVER, limit: int = 9) -> list[str]:
    async with store.read() as view:
        return [one.id for one in await view.purges.deleted(kind, by=by, limit=limit)]


async def waiting(store: Store, now: int = EVER) -> list[Purge]:
    async with store.read() as view:
        return await view.purges.waiting(now, limit=9)


async def given_models(store: Store, *models: LoggedModel) -> None:
    async with store.write() as work:
        for one in models:
            await work.models.add(one)
        await work.commit()


async def given_trace(store: Store, trace_id: str, experiment_id: str, *runs: str) -> None:
    trace = Trace(
        trace_id=trace_id,
        experiment_id=experiment_id,
        requested_at=1,
        tags={"a": "b"},
        runs=frozenset(runs),
    )
    async with store.write() as work:
        await work.traces.lock([trace_id])
        await work.traces.put([trace])
        await work.commit()


async def runs_of(store: Store, experiment_id: str) -> Collection[str]:
    query = RunQuery(experiment_ids=[experiment_id], stage=None, limit=9)
    async with store.read() as view:
        return {one.info.run_id async for one in view.runs.find(query)}


async def test_what_was_deleted_is_found_by_its_age(store: Store) -> None:
    await given(
        store,
        run(1),
        deleted_run(2, 20),
        deleted_run(3, 10),
        run(4, stage=GONE, deleted_at=5, deleted_with_experiment=True),
    )
    await given_models(store, model(1), model(2, stage=GONE, updated_at=7))
    async with store.write() as work:
        await work.experiments.add(experiment(2, stage=GONE, deleted_at=8))
        await work.commit()
    assert await found(store, Kind.RUN) == ["r3", "r2"]
    assert await found(store, Kind.RUN, by=19) == ["r3"]
    assert await found(store, Kind.RUN, limit=1) == ["r3"]
    assert await found(store, Kind.MODEL, by=7) == ["m-2"]
    assert await found(store, Kind.MODEL, by=6) == []
    assert await found(store, Kind.EXPERIMENT) == ["e2"]
    async with store.read() as view:
        known = await view.purges.known(Kind.RUN, ["r1", "r4", "r9", "nul\x00"])
        models = await view.purges.known(Kind.MODEL, ["m-1"])
    assert known == {
        "r1": Deleted(
            kind=Kind.RUN,
            id="r1",
            experiment_id="e1",
            name="run 1",
            created_by="ada",
            deleted_at=None,
        ),
        "r4": Deleted(
            kind=Kind.RUN, id="r4", experiment_id="e1", name="run 4", created_by="ada", deleted_at=5
        ),
    }
    assert [(one.name, one.deleted_at) for one in models.values()] == [("model 1", None)]


async def test_only_what_was_deleted_for_long_enough_is_marked_and_once(store: Store) -> None:
    await given(store, run(1), deleted_run(2, 20), deleted_run(3, 30))
    assert await mark(store, Kind.RUN, "r1", "r2", "r3", "r9", by=25) == {"r2"}
    assert await mark(store, Kind.RUN, "r2", by=25, at=60) == set()
    assert await waiting(store, 49) == []
    assert await waiting(store, 50) == [Purge(Kind.RUN, "r2", "e1", is_late=False)]


async def test_a_marked_run_is_gone_for_everybody(store: Store) -> None:
    await given(store, run(1), deleted_run(2, 20))
    inputs = (DatasetInput("flights", "1"),)
    await log(store, "r2", Point("loss", 1, 2, 0.5), inputs=inputs)
    assert await mark(store, Kind.RUN, "r2") == {"r2"}
    async with store.read() as view:
        assert await view.runs.get("r2") is None
        assert await view.runs.info("r2") is None
        assert await view.runs.datasets(["e1"], limit=9) == []
        assert await view.purges.known(Kind.RUN, ["r2"]) == {}
    assert await runs_of(store, "e1") == {"r1"}
    assert await found(store, Kind.RUN) == []
    async with store.write() as work:
        assert await work.runs.lock(["r1", "r2"]) == {"r1": run(1)}
    assert await append(store, {"r2": Points.of([Point("loss", 2, 2, 0.5)])}) == {}


async def test_a_marked_run_comes_back_with_nothing(store: Store) -> None:
    taken = run(2, stage=GONE, deleted_at=20, deleted_with_experiment=True)
    await given(store, run(1), taken)
    assert await mark(store, Kind.RUN, "r2") == {"r2"}
    for stage in (GONE, LifecycleStage.ACTIVE):
        async with store.write() as work:
            await work.runs.move_all("e1", stage, at=60)
            await work.commit()
    assert await runs_of(store, "e1") == {"r1"}
    async with store.read() as view:
        assert await view.runs.info("r1") == run(1)
        assert await view.purges.under_way() == 1


async def test_rows_of_a_run_are_removed_once_with_all_that_hangs_on_it(store: Store) -> None:
    await given(store, run(1), deleted_run(2, 20))
    await given_models(store, model(1))
    await given_trace(store, "tr-1", "e1", "r1", "r2")
    for run_id in ("r1", "r2"):
        await log(store, run_id, Point("loss", 1, 2, 0.5), params={"a": "1"}, tags={"b": "2"})
        async with store.write() as work:
            await work.models.link(run_id, [ModelLink("m-1", is_output=True)])
            await work.models.describe(run_id, [RunDataset(name="flights", digest="1")])
            await work.commit()
    assert await remove(store, Kind.RUN, "r1", "r2") == set()
    await mark(store, Kind.RUN, "r2")
    await store.forget_points(["r2"])
    assert await remove(store, Kind.RUN, "r1", "r2") == {"r2"}
    assert await remove(store, Kind.RUN, "r2") == set()
    async with store.read() as view:
        kept = await view.runs.get("r1")
        assert kept is not None
        assert (kept.params, kept.tags) == ({"a": "1"}, {"b": "2"})
        assert (await view.models.links(["r1", "r2"])).keys() == {"r1"}
        assert (await view.models.described(["r1", "r2"])).keys() == {"r1"}
        assert (await view.traces.get(["tr-1"]))["tr-1"].runs == {"r1"}
        assert await view.metrics.history("r2", "loss", after=None, limit=9) == []
        assert len(await view.metrics.history("r1", "loss", after=None, limit=9)) == 1
    # Its id is free: nothing of it is left that another row would meet.
    await store.transact(lambda work: work.add_runs([Run(run(2))]))
    async with store.read() as view:
        again = await view.runs.get("r2")
    assert again is not None
    assert (again.params, again.tags, again.metrics) == ({}, {}, {})


async def test_a_model_is_removed_with_its_links(store: Store) -> None:
    await given(store, run(1))
    await given_models(store, model(1), model(2, stage=GONE, updated_at=5))
    async with store.write() as work:
        links = [ModelLink("m-1", is_output=True), ModelLink("m-2", is_output=False)]
        await work.models.link("r1", links)
        await work.commit()
    assert await mark(store, Kind.MODEL, "m-1", "m-2") == {"m-2"}
    async with store.read() as view:
        assert await view.models.get("m-2") is None
    assert await remove(store, Kind.MODEL, "m-1", "m-2") == {"m-2"}
    async with store.read() as view:
        assert await view.models.get("m-1") == model(1)
        assert await view.models.links(["r1"]) == {"r1": links[:1]}


async def test_an_experiment_goes_with_all_that_is_in_it(store: Store) -> None:
    await given(store, run(1, "e2"), run(2), deleted_run(3, 5, "e2"))
    await given_models(store, model(1, experiment_id="e2"), model(2))
    await given_trace(store, "tr-1", "e2")
    await given_trace(store, "tr-2", "e1")
    scorer = ScorerVersion(
        experiment_id="e2", name="s", version=1, scorer_id="1", serialized="{}", created_at=1
    )
    async with store.write() as work:
        await work.scorers.add(scorer)
        await work.experiments.put(experiment(2, stage=GONE, deleted_at=9, tags={"a": "b"}))
        await work.commit()
    assert await mark(store, Kind.EXPERIMENT, "e1", "e2") == {"e2"}
    every = ExperimentQuery(stage=None, limit=9)
    async with store.read() as view:
        assert await view.experiments.get("e2") is None
        assert await view.experiments.by_name("experiment 2") is None
        assert [one.experiment_id for one in await view.experiments.find(every)] == ["e1"]
        assert await view.runs.info("r1") is None
        assert await view.models.get("m-1") is None
        assert await view.traces.homes(["tr-1", "tr-2"]) == {"tr-2": "e1"}
        assert (await view.traces.get(["tr-1", "tr-2"])).keys() == {"tr-2"}
        there = TraceQuery(experiment_ids=["e1", "e2"], limit=9)
        assert [one.trace_id for one in await view.traces.find(there)] == ["tr-2"]
        assert await view.traces.count(there) == 1
        assert set(await view.purges.inside(Kind.RUN, "e2", limit=9)) == {"r1", "r3"}
        assert len(await view.purges.inside(Kind.RUN, "e2", limit=1)) == 1
        assert await view.purges.inside(Kind.MODEL, "e2", limit=9) == ["m-1"]
        assert await view.purges.traces_inside("e2", limit=9) == ["tr-1"]
    assert await store.transact(lambda work: list(work.homes(["e1", "e2"]))) == ["e1"]
    # The name is free at once.
    async with store.write() as work:
        await work.experiments.add(experiment(3, name="experiment 2"))
        await work.commit()
    assert await remove(store, Kind.RUN, "r1", "r3") == {"r1", "r3"}
    async with store.write() as work:
        await work.purges.remove_traces(["tr-1"])
        await work.commit()
    assert await remove(store, Kind.EXPERIMENT, "e1", "e2") == {"e2"}
    assert await remove(store, Kind.EXPERIMENT, "e2") == set()
    async with store.write() as work:
        await work.experiments.add(experiment(2, name="again"))
        assert await work.scorers.of(["e2"], None) == []
        assert (await work.traces.get(["tr-2"])).keys() == {"tr-2"}
        assert await work.models.get("m-2") == model(2)
        await work.commit()
    assert await runs_of(store, "e1") == {"r2"}


async def test_purges_are_put_off_and_settled(store: Store) -> None:
    await given(store, *(deleted_run(number, number) for number in (1, 2, 3)))
    await mark(store, Kind.RUN, "r2", at=40)
    await mark(store, Kind.RUN, "r1", "r3", at=50)
    assert [one.id for one in await waiting(store)] == ["r2", "r1", "r3"]
    [second, first, third] = await waiting(store)
    async with store.write() as work:
        await work.purges.put_off([second], 60, is_late=False)
        await work.purges.put_off([first], 90, is_late=True)
        await work.purges.settle([third])
        await work.commit()
    assert await waiting(store, 89) == [second]
    assert await waiting(store, 90) == [second, first._replace(is_late=True)]
    async with store.read() as view:
        assert await view.purges.under_way() == 1
