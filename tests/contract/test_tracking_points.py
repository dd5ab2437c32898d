"""One body over every archive of points; and how points get there from the log."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from devstack import Stack
from services.tracking.adapters.clickhouse.points import ClickHousePoints
from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.sql.carrier import PointCarrier
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.convert.events import run_started
from services.tracking.domain.buckets import Bucket, Steps
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.run import Run, RunInfo
from services.tracking.ports.store import POINT_SCHEMA, PointArchive
from services.tracking.ports.transaction import Transaction
from tessera_kit.config import ClickHouseConfig
from tessera_kit.errors import Unavailable
from tessera_kit.ids import new_id
from tessera_kit.store.clickhouse import ClickHouse, quote_identifier
from tessera_kit.store.sql import Database
from tests.helpers import eventually, unique_name
from tests.tracking_database import append, fresh_database

HARD = [
    Point("m", -(2**63), 0, math.inf),
    Point("m", 1, 5, -math.inf),
    Point("m", 1, 5, 1.0),
    Point("m", 1, 5, 2.5),
    Point("m", 1, 5, math.nan),
    Point("m", 1, 6, 0.0),
    Point("m", 2, 1, -1e-300),
    Point("m", 2**63 - 1, 253_402_300_799_999_999, 5e-324),
]


@pytest.fixture(scope="module")
async def client(stack: Stack) -> AsyncIterator[ClickHouse]:
    config = ClickHouseConfig.from_env(stack.environment, database=unique_name("tracking"))
    async with ClickHouse(config) as client:
        yield client
        database = quote_identifier(client.database)
        await client.command(f"DROP DATABASE IF EXISTS {database}", use_database=False)


@pytest.fixture(params=["memory", "clickhouse"])
def archive(request: pytest.FixtureRequest) -> PointArchive:
    if request.param == "memory":
        return InMemoryPoints()
    return ClickHousePoints(request.getfixturevalue("client"))


async def history(archive: PointArchive, run_id: str, key: str, limit: int = 100) -> list[Point]:
    seen: list[Point] = []
    after: Point | None = None
    while page := await archive.history(run_id, key, after=after, limit=limit):
        assert len(page) <= limit
        seen += page
        after = page[-1]
    return seen


async def test_points_added_again_are_read_once_in_order_and_in_pages(
    archive: PointArchive,
) -> None:
    run_id, other = new_id(), new_id()
    assert await archive.history(run_id, "m", after=None, limit=5) == []
    many = [Point("a b/c", step, step, float(step)) for step in range(50)]
    for part in (HARD[::-1], HARD, HARD[3:5], [*HARD, *HARD]):
        await archive.add(
            {run_id: Points.of([*part, *many]), other: Points.of([Point("m", 0, 0, 0.0)])}
        )
    await archive.add({run_id: Points.of([])})
    for limit in (1, 2, 100):
        assert repr(await history(archive, run_id, "m", limit)) == repr(HARD)
    assert await history(archive, run_id, "a b/c", 20) == many
    assert await history(archive, other, "m") == [Point("m", 0, 0, 0.0)]
    assert await history(archive, run_id, "none") == []


async def test_points_of_runs_are_forgotten(archive: PointArchive) -> None:
    runs = [new_id() for _ in range(150)]
    kept = new_id()
    point = Point("m", 1, 2, 0.5)
    await archive.delete(runs)
    for _ in range(2):
        await archive.add({one: Points.of([point]) for one in [*runs, kept]})
    await archive.delete(runs)
    assert [one async for batch in archive.export(runs, []) for one in batch.to_pylist()] == []
    assert await archive.history(runs[0], "m", after=None, limit=9) == []
    assert await archive.history(kept, "m", after=None, limit=9) == [point]
    # What is added again is there again.
    await archive.add({runs[0]: Points.of([point])})
    assert await archive.history(runs[0], "m", after=None, limit=9) == [point]


async def test_a_metric_in_few_buckets(archive: PointArchive) -> None:
    run_id = new_id()
    assert await archive.buckets(run_id, "m", Steps(), 10) == []
    points = [Point("m", step, 1000 - step, float(step % 7)) for step in range(100)]
    added = Points.of([*points, *points[20:30], Point("m", 5, 2000, math.nan)])
    for _ in range(2):
        await archive.add({run_id: added})
    found = await archive.buckets(run_id, "m", Steps(), 4)
    assert [(one.first_step, one.last_step, one.points, one.nan_count) for one in found] == [
        (0, 24, 26, 1),
        (25, 49, 25, 0),
        (50, 74, 25, 0),
        (75, 99, 25, 0),
    ]
    for one in found:
        values = [p.value for p in points if one.first_step <= p.step <= one.last_step]
        assert (one.minimum, one.maximum) == (min(values), max(values))
        assert one.mean == pytest.approx(sum(values) / len(values))
        assert one.first_at == 1000 - one.last_step
    assert found[0].last_at == 2000
    [one, other] = await archive.buckets(run_id, "m", Steps(10, 13), 2)
    assert (one.first_step, one.last_step, other.first_step, other.last_step) == (10, 11, 12, 13)
    assert await archive.buckets(run_id, "m", Steps(13, 10), 2) == []
    assert await archive.buckets(run_id, "m", Steps(1000, None), 2) == []
    assert len(await archive.buckets(run_id, "m", Steps(), 10_000)) == 100


async def test_several_metrics_are_what_each_of_them_is(archive: PointArchive) -> None:
    run_id, other = new_id(), new_id()
    assert await archive.curves(run_id, ["m"], 10) == {}
    named = [f"it's {{a}} \\ \t {letter}/é" for letter in "xyz"]
    points = [
        Point(key, first + step * wide, 10 * step, math.sin(step))
        for key, first, wide in zip(named, (-(2**63), 0, 7), (2**50, 1, 3), strict=True)
        for step in range(200)
    ]
    for _ in range(2):
        await archive.add({run_id: Points.of([*points, *HARD]), other: Points.of(points[:3])})
    keys = [named[2], "none", "m", named[0], named[1]]
    for count in (1, 7, 1000):
        found = await archive.curves(run_id, keys, count)
        assert list(found) == [key for key in keys if key != "none"]
        for key, buckets in found.items():
            alone = await archive.buckets(run_id, key, Steps(), count)
            assert repr([one[:-1] for one in buckets]) == repr([one[:-1] for one in alone])
            means = [one.mean for one in alone]
            assert [one.mean for one in buckets] == pytest.approx(means, nan_ok=True)


async def test_buckets_of_the_widest_range_and_of_no_number(archive: PointArchive) -> None:
    run_id = new_id()
    await archive.add({run_id: Points.of([*HARD, Point("n", 1, 1, math.nan)])})
    found = await archive.buckets(run_id, "m", Steps(), 2)
    assert [one.points for one in found] == [1, 7]
    assert (found[1].minimum, found[1].maximum, found[1].nan_count) == (-math.inf, 2.5, 1)
    [none] = await archive.buckets(run_id, "n", Steps(), 5)
    assert none[:6] == (1, 1, 1, 1, 1, 1)
    assert all(math.isnan(value) for value in none[6:])


async def test_exported_points_are_there_once_in_order(archive: PointArchive) -> None:
    runs = sorted(new_id() for _ in range(3))
    points = Points.of([*HARD, *HARD, Point("n", 1, 1, 1.0)])
    for _ in range(2):
        await archive.add(dict.fromkeys(runs, points))
    for keys, expected in ((["m"], HARD), ([], [*HARD, Point("n", 1, 1, 1.0)])):
        batches = [batch async for batch in archive.export(runs[:2], keys)]
        table = pa.Table.from_batches(batches, POINT_SCHEMA)
        rows = [
            Point(row["key"], row["step"], row["timestamp"], row["value"])
            for row in table.set_column(
                3, "timestamp", table["timestamp"].cast(pa.int64())
            ).to_pylist()
        ]
        assert repr(rows) == repr([*expected, *expected])
        assert table["run_id"].unique().to_pylist() == runs[:2]
    assert [batch async for batch in archive.export([new_id()], []) if batch.num_rows] == []


class Flaky:
    """An archive that is away at times, also after it has stored what it was given."""

    def __init__(self, kept: PointArchive) -> None:
        self.kept = kept
        self.away_before = self.away_after = 0
        self.added = 0

    async def add(self, points: Mapping[str, Points]) -> None:
        if self.away_before:
            self.away_before -= 1
            raise Unavailable("away")
        await self.kept.add(points)
        self.added += 1
        if self.away_after:
            self.away_after -= 1
            raise Unavailable("the answer was lost")

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        return await self.kept.buckets(run_id, key, steps, count)

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        return await self.kept.curves(run_id, keys, count)

    def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        return self.kept.export(run_ids, keys)

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        return await self.kept.history(run_id, key, after=after, limit=limit)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(await fresh_database(tmp_path)) as database:
        yield database


async def new_run(store: SqlStore) -> str:
    run_id = new_id()
    async with store.write() as work:
        if await work.experiments.get("e1") is None:
            await work.experiments.add(
                Experiment(
                    experiment_id="e1",
                    name="e1",
                    artifact_location="s3://b/e1",
                    created_by="ada",
                    created_at=1,
                    updated_at=1,
                    etag="1",
                )
            )
        await work.commit()
    run = RunInfo(
        run_id=run_id,
        experiment_id="e1",
        name="r",
        started_at=1,
        artifact_location=f"s3://b/e1/{run_id}",
        created_by="ada",
        etag="1",
    )
    await store.transact(lambda work: work.add_runs([Run(run)]))
    return run_id


async def read(store: SqlStore, run_id: str, key: str = "m") -> list[Point]:
    async with store.read() as view:
        return await view.metrics.history(run_id, key, after=None, limit=1000)


async def test_points_are_read_once_wherever_they_are(
    archive: PointArchive, database: Database
) -> None:
    store = SqlStore(database, archive)
    run_id, other = await new_run(store), await new_run(store)
    await append(store, {run_id: Points.of(HARD[::2]), other: Points.of([Point("x", 1, 1, 1.0)])})
    assert repr(await read(store, run_id)) == repr(HARD[::2])
    assert await store.carrier.carry()
    assert not await store.carrier.carry()
    assert repr(await read(store, run_id)) == repr(HARD[::2])
    # Sent again, and more: part of it in the archive, part of it in the log, part of it in both.
    await append(store, {run_id: Points.of(HARD)})
    assert repr(await read(store, run_id)) == repr(HARD)
    await store.carrier.settle([run_id])
    assert repr(await read(store, run_id)) == repr(HARD)
    assert await read(store, other, "x") == [Point("x", 1, 1, 1.0)]
    async with store.read() as view:
        found = await view.runs.get(run_id)
    assert found is not None
    assert found.metrics["m"] == HARD[-1]


async def test_an_archive_that_is_away_loses_and_doubles_nothing(database: Database) -> None:
    archive = Flaky(InMemoryPoints())
    store = SqlStore(database, archive)
    run_id = await new_run(store)
    await append(store, {run_id: Points.of(HARD[:4])})
    archive.away_before, archive.away_after = 1, 1
    with pytest.raises(Unavailable, match="away"):
        await store.carrier.settle([run_id])
    with pytest.raises(Unavailable, match="lost"):
        await store.carrier.carry()
    await append(store, {run_id: Points.of(HARD[2:])})
    assert repr(await read(store, run_id)) == repr(HARD)
    archive.away_before, archive.away_after = 1, 1
    running = asyncio.create_task(store.carrier.run())
    try:

        async def is_empty() -> bool:
            return archive.added == 3 and not await store.carrier.carry()

        await eventually(is_empty, 30)
        assert repr(await read(store, run_id)) == repr(HARD)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Busy(Flaky):
    """An archive that is told points while somebody goes on logging."""

    store: SqlStore
    run_id: str

    async def add(self, points: Mapping[str, Points]) -> None:
        await super().add(points)
        later = Point("m", 1, self.added, 0.0)
        await append(self.store, {self.run_id: Points.of([later])})


async def test_what_arrives_while_points_are_carried_waits_for_more(database: Database) -> None:
    archive = Busy(InMemoryPoints())
    store = archive.store = SqlStore(database, archive)
    store.carrier = PointCarrier(database, archive, interval_seconds=600)
    run_id = archive.run_id = await new_run(store)
    await append(store, {run_id: Points.of(HARD)})
    running = asyncio.create_task(store.carrier.run())
    try:

        async def holds_later_point() -> bool:
            return len(await read(store, run_id)) > len(HARD)

        await eventually(holds_later_point, 30)
        for _ in range(20):
            await read(store, run_id)
        assert archive.added == 1
        await store.carrier.settle([run_id])
        assert archive.added == 2
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_settling_one_run_leaves_the_others_in_the_log(database: Database) -> None:
    archive = Flaky(InMemoryPoints())
    store = SqlStore(database, archive)
    one, other = await new_run(store), await new_run(store)
    for run_id in (one, other):
        await append(store, {run_id: Points.of(HARD)})
    await store.carrier.settle([one])
    assert repr(await archive.history(one, "m", after=None, limit=100)) == repr(HARD)
    assert await archive.history(other, "m", after=None, limit=100) == []
    await store.carrier.settle([one])
    assert archive.added == 1


async def test_what_a_cancelled_caller_committed_is_carried_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def task(work: Transaction) -> None:
        work.lock([run_id])
        work.add_points({run_id: Points.of(HARD[:3])})
        work.publish(run_started(told))
        begun.set()
        assert cancelled.wait(30)

    store = SqlStore(database, InMemoryPoints())
    run_id = await new_run(store)
    async with store.read() as view:
        told = await view.runs.get(run_id)
    assert told is not None
    noted: list[int] = []
    monkeypatch.setattr(store.carrier, "note", noted.append)
    caller = asyncio.create_task(store.transact(task))
    assert await asyncio.to_thread(begun.wait, 30)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    cancelled.set()
    async with asyncio.timeout(30):
        await database.outbox_filled.wait()
    assert noted == [3]
    assert repr(await read(store, run_id)) == repr(HARD[:3])
