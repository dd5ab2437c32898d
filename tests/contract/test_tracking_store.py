"""One body over every implementation of tracking's store."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.tracking.adapters.sql.tables import METADATA
from services.tracking.convert.events import run_started
from services.tracking.domain.batch import Batch, Known, News
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetInput, DatasetUse, Run, RunStatus
from services.tracking.domain.search.paging import position_after
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import EXPERIMENTS
from services.tracking.errors import ExperimentNameTaken
from services.tracking.ports.store import ExperimentQuery, Store
from services.tracking.ports.transaction import Home, Transaction
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.sql import Database
from tests.tracking_database import STORES, append, fresh_database, opened_store
from tests.tracking_rows import experiment, given, log, run


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


async def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    declared = DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path / 'declared.db'}")
    async with Database(declared) as database, database.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        expected = await connection.run_sync(described)
    migrated = await fresh_database(tmp_path)
    async with Database(migrated) as database, database.engine.begin() as connection:
        assert await connection.run_sync(described) == expected


def described(connection: sa.Connection) -> dict[str, object]:
    inspector = sa.inspect(connection)
    return {
        table: (
            [
                (one["name"], str(one["type"]), one["nullable"])
                for one in inspector.get_columns(table)
            ],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(
                (key["constrained_columns"], key["referred_table"])
                for key in inspector.get_foreign_keys(table)
            ),
            sorted(key["column_names"] for key in inspector.get_unique_constraints(table)),
            sorted((str(one["name"]), one["column_names"]) for one in inspector.get_indexes(table)),
        )
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


async def test_what_is_not_committed_is_not_there(store: Store) -> None:
    async with store.write() as work:
        await work.experiments.add(experiment())
    async with store.read() as view:
        assert await view.experiments.get("e1") is None
    await given(store)

    def fails(work: Transaction) -> None:
        work.add_runs([Run(run(), tags={"a": "b"})])
        work.add_points({"r1": Points.of([Point("m", 1, 1, 1.0)])})
        work.publish(run_started(Run(run())))
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(fails)
    async with store.read() as view:
        assert await view.runs.get("r1") is None


async def test_runs_that_were_just_added_take_what_is_logged(store: Store) -> None:
    await given(store)

    def task(work: Transaction) -> None:
        assert work.homes(["e1", "no"]) == {"e1": Home(LifecycleStage.ACTIVE, "s3://bucket/e1")}
        work.add_runs([Run(run(number), tags={"t": str(number), "s": ""}) for number in range(250)])
        work.log({"r7": [News({"p": "1"}, {"t": "new"}, ())]}, {"r7": "second"})
        work.add_points({"r8": Points.of([Point("m", 1, 1, 0.5)])})

    await store.transact(task)
    async with store.read() as view:
        for number in (0, 7, 8, 249):
            found = await view.runs.get(f"r{number}")
            assert found is not None
            changed = number == 7
            assert found.info == run(number, etag="second" if changed else "first")
            assert found.tags == {"s": "", "t": "new" if changed else str(number)}
            assert found.params == ({"p": "1"} if changed else {})
            assert list(found.metrics) == (["m"] if number == 8 else [])


async def test_an_experiment_is_read_as_it_was_stored(store: Store) -> None:
    made = experiment(tags={"b": "2", "a": "1"})
    async with store.write() as work:
        await work.experiments.add(made)
        await work.commit()
    async with store.read() as view:
        assert await view.experiments.get("e1") == made
        assert await view.experiments.by_name("experiment 1") == made
        assert await view.experiments.by_name("Experiment 1") is None


async def test_a_changed_experiment_replaces_the_old_one(store: Store) -> None:
    changed = experiment(name="new", tags={"b": "3"}, stage=LifecycleStage.DELETED, etag="second")
    async with store.write() as work:
        await work.experiments.add(experiment(tags={"a": "1"}))
        await work.experiments.put(changed)
        await work.commit()
    async with store.read() as view:
        assert await view.experiments.get("e1") == changed
        assert await view.experiments.by_name("experiment 1") is None


async def test_names_of_experiments_are_unique_and_a_refusal_leaves_the_work_usable(
    store: Store,
) -> None:
    async with store.write() as work:
        await work.experiments.add(experiment(1, stage=LifecycleStage.DELETED))
        with pytest.raises(ExperimentNameTaken):
            await work.experiments.add(experiment(2, name="experiment 1"))
        await work.experiments.add(experiment(2))
        with pytest.raises(ExperimentNameTaken):
            await work.experiments.put(experiment(2, name="experiment 1"))
        await work.commit()
    async with store.read() as view:
        assert await view.experiments.get("e2") == experiment(2)


async def test_experiments_are_found_newest_first_and_in_pages(store: Store) -> None:
    async with store.write() as work:
        for number in range(5):
            await work.experiments.add(experiment(number, tags={"team": str(number % 2)}))
        await work.commit()
    conditions = parse_filter("name LIKE 'experiment%' AND tags.team = '0'", EXPERIMENTS)
    async with store.read() as view:
        query = ExperimentQuery(filter=conditions, limit=2)
        first = await view.experiments.find(query)
        assert [one.experiment_id for one in first] == ["e4", "e2"]
        after = position_after(
            run_values_unused, (), time=first[-1].created_at, identifier=first[-1].experiment_id
        )
        rest = await view.experiments.find(replace(query, after=after))
        assert [one.experiment_id for one in rest] == ["e0"]


def run_values_unused(field: object) -> list[object]:
    raise AssertionError(f"no key orders by {field}")


async def test_a_run_is_read_with_all_that_was_logged(store: Store) -> None:
    await given(store, run())
    await log(
        store,
        "r1",
        Point("loss", 1, 5, 0.5),
        Point("loss", 2, 6, 0.25),
        Point("acc", -1, 5, math.inf),
        params={"b": "2", "a": "1"},
        tags={"t": "x"},
        inputs=(DatasetInput("main.a.b", "d", "training"), DatasetInput("c")),
    )
    await log(store, "r1", tags={"t": "y"})
    async with store.read() as view:
        found = await view.runs.get("r1")
        assert found is not None
        assert found.info == run()
        assert list(found.params.items()) == [("a", "1"), ("b", "2")]
        assert found.tags == {"t": "y"}
        assert list(found.metrics.values()) == [
            Point("acc", -1, 5, math.inf),
            Point("loss", 2, 6, 0.25),
        ]
        assert found.inputs == (DatasetInput("c"), DatasetInput("main.a.b", "d", "training"))
        assert await view.runs.info("r1") == run()
        assert await view.runs.get("r2") is None
        assert await view.runs.info("r2") is None


async def test_data_sets_of_experiments_are_listed_once_each_in_order(store: Store) -> None:
    await given(store, run(1), run(2, stage=LifecycleStage.DELETED), run(3, "e2"))
    flights = DatasetInput("main.a.b", "d", "training")
    await log(store, "r1", inputs=(flights, DatasetInput("c")))
    await log(store, "r2", inputs=(flights, flights._replace(context="test")))
    await log(store, "r3", inputs=(flights,))
    expected = [
        DatasetUse("e1", DatasetInput("c")),
        DatasetUse("e1", flights._replace(context="test")),
        DatasetUse("e1", flights),
        DatasetUse("e2", flights),
    ]
    async with store.read() as view:
        assert await view.runs.datasets(["e1", "e2", "e3"], limit=9) == expected
        assert await view.runs.datasets(["e2", "e1"], limit=2) == expected[:2]
        assert await view.runs.datasets(["e2"], limit=9) == expected[3:]
        assert await view.runs.datasets([], limit=9) == []


async def test_a_changed_run_replaces_the_old_one(store: Store) -> None:
    changed = run(
        name="other", status=RunStatus.FAILED, ended_at=9, stage=LifecycleStage.DELETED, etag="2"
    )
    await given(store, run())
    async with store.write() as work:
        assert await work.runs.lock(["r1", "missing"]) == {"r1": run()}
        await work.runs.put(changed)
        await work.commit()
    async with store.read() as view:
        assert await view.runs.info("r1") == changed


async def test_the_latest_point_is_of_the_greatest_step_then_time_then_value(store: Store) -> None:
    await given(store, run())
    nan = Point("m", 7, 10, math.nan)
    for points, latest in [
        ([Point("m", 5, 10, 1.0), Point("m", 4, 99, 9.0)], Point("m", 5, 10, 1.0)),
        ([Point("m", 5, 9, 5.0)], Point("m", 5, 10, 1.0)),
        ([Point("m", 5, 10, 0.5)], Point("m", 5, 10, 1.0)),
        ([Point("m", 5, 10, 2.0)], Point("m", 5, 10, 2.0)),
        ([Point("m", 5, 11, -math.inf)], Point("m", 5, 11, -math.inf)),
        ([nan], nan),
        ([Point("m", 7, 10, -1.0)], Point("m", 7, 10, -1.0)),
        ([nan], Point("m", 7, 10, -1.0)),
    ]:
        await log(store, "r1", *points)
        async with store.read() as view:
            found = await view.runs.get("r1")
            assert found is not None
            assert repr(found.metrics["m"]) == repr(latest)


async def test_history_is_a_set_in_order_and_in_pages(store: Store) -> None:
    await given(store, run(1), run(2))
    points = [
        Point("m", 1, 5, 1.0),
        Point("m", 1, 5, 2.5),
        Point("m", 1, 5, math.nan),
        Point("m", 1, 6, 0.0),
        Point("m", 2, 1, -math.inf),
        Point("m", 2**63 - 1, 1, 5e-324),
    ]
    for _ in range(2):
        await log(store, "r1", *reversed(points), Point("other", 0, 0, 0.0))
    await log(store, "r2", Point("m", 0, 0, 0.0))
    async with store.read() as view:
        seen: list[Point] = []
        while page := await view.metrics.history(
            "r1", "m", after=seen[-1] if seen else None, limit=2
        ):
            assert len(page) <= 2
            seen += page
        assert repr(seen) == repr(points)
        assert await view.metrics.history("r1", "none", after=None, limit=5) == []
        assert await view.metrics.history("none", "m", after=None, limit=5) == []


async def test_appended_points_are_those_of_active_runs(store: Store) -> None:
    await given(store, run(1), run(2, stage=LifecycleStage.DELETED), run(3))
    points = Points.of(
        Point(f"m{key}", step, 1, float(step)) for key in range(40) for step in range(30)
    )
    nan = Points.of([Point("x", 1, 1, math.nan)])
    first = {"r1": points, "r2": points, "missing": points, "r3": nan}
    for _ in range(2):
        assert await append(store, first) == {
            "r1": LifecycleStage.ACTIVE,
            "r2": LifecycleStage.DELETED,
            "r3": LifecycleStage.ACTIVE,
        }
    await append(store, {"r1": Points.of([Point("m0", 2, 9, 9.0), Point("m0", 29, 0, 9.0)])})
    async with store.read() as view:
        found = await view.runs.get("r1")
        assert found is not None
        assert len(found.metrics) == 40
        assert found.metrics["m0"] == Point("m0", 29, 1, 29.0)
        assert len(await view.metrics.history("r1", "m0", after=None, limit=100)) == 32
        assert await view.metrics.history("r2", "m0", after=None, limit=100) == []
        other = await view.runs.get("r3")
        assert other is not None
        assert math.isnan(other.metrics["x"].value)


async def test_writers_of_the_same_runs_never_wait_in_a_circle(store: Store) -> None:
    runs = [f"r{number}" for number in range(4)]
    await given(store, *(run(number) for number in range(4)))

    def log_all(chosen: list[str], news: News, points: Points, work: Transaction) -> None:
        work.lock(chosen)
        work.log({run_id: [news] for run_id in chosen}, dict.fromkeys(chosen, "other"))
        work.add_points(dict.fromkeys(chosen, points))

    async def measure(writer: int) -> None:
        ordered = runs if writer % 2 else runs[::-1]
        for step in range(5):
            point = Point("shared", step, writer, float(writer))
            own = Point(f"m{writer}", step, 0, 0.0)
            points = Points.of([point, own][:: (-1) ** step])
            await append(store, dict.fromkeys(ordered, points))

    async def write(writer: int) -> None:
        for step in range(5):
            chosen = runs[writer % 2 :: (-1) ** writer]
            news = News({}, {"who": f"{writer} {step}", f"t{writer}": "x"}, ())
            points = Points.of([Point("shared", step, writer, 0.5)])
            await store.transact(partial(log_all, chosen, news, points))

    await asyncio.gather(*(one(writer) for one in (measure, write) for writer in range(8)))
    async with store.read() as view:
        for run_id in runs:
            found = await view.runs.get(run_id)
            assert found is not None
            assert found.metrics["shared"] == Point("shared", 4, 7, 7.0)
            points = await view.metrics.history(run_id, "shared", after=None, limit=1000)
            assert {point for point in points if point.value != 0.5 or point.timestamp == 0} >= {
                Point("shared", step, writer, float(writer))
                for step in range(5)
                for writer in range(8)
            }


async def test_known_is_what_batches_name(store: Store) -> None:
    await given(store, run(1), run(2), run(3))
    used = DatasetInput("d")
    await log(store, "r1", params={"p": "1", "q": "2"}, tags={"t": "3"}, inputs=(used,))
    await log(store, "r2", params={"p": "4"})
    batches = [
        Batch(run_id="r1", principal="ada", params={"p": "?"}, tags={"t": "?"}, inputs=(used,)),
        Batch(run_id="r2", principal="ada", params={"p": "?", "z": "?"}),
        Batch(run_id="r3", principal="ada"),
    ]

    def task(work: Transaction) -> dict[str, Known]:
        work.lock(["r1", "r2", "r3"])
        return work.known(batches)

    known = await store.transact(task)
    assert known["r1"].params["p"] == "1"
    assert known["r1"].tags == {"t": "3"}
    assert known["r1"].inputs == {used}
    assert known["r2"].params == {"p": "4"}
    assert known["r3"].params == known["r3"].tags == {}


async def test_a_tag_is_removed_once(store: Store) -> None:
    await given(store)
    tagged = [Run(run(1), tags={"a": "1", "b": "2"}), Run(run(2), tags={"a": "1"})]
    await store.transact(lambda work: work.add_runs(tagged))
    async with store.write() as work:
        await work.runs.lock(["r1"])
        assert await work.runs.remove_tag("r1", "a")
        assert not await work.runs.remove_tag("r1", "a")
        await work.commit()
    async with store.read() as view:
        one, other = await view.runs.get("r1"), await view.runs.get("r2")
    assert one is not None
    assert other is not None
    assert (dict(one.tags), dict(other.tags)) == ({"b": "2"}, {"a": "1"})
