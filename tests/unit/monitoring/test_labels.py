"""Labels: taken in, joined, and computed in batches when they stop coming."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.monitoring.domain.monitor import AlertRule, Comparison
from services.monitoring.domain.windows import WindowRecord
from services.monitoring.handlers.labels import LabelRecomputer
from services.monitoring.ports import Label
from tessera.events.v1 import monitoring_events_pb2
from tessera_kit.errors import Unavailable
from tests.helpers import eventually
from tests.monitoring_world import DAY, NOW, SPRING, ServiceWorld, a_request


@pytest.fixture
def world() -> ServiceWorld:
    return ServiceWorld()


def recomputer(world: ServiceWorld) -> LabelRecomputer:
    return LabelRecomputer(
        world.store,
        world.cases.computer,
        world.cases.labels.marked,
        quiet_seconds=0.02,
        longest_seconds=0.2,
        poll_seconds=0.05,
    )


@contextlib.asynccontextmanager
async def running(worker: LabelRecomputer) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def label(index: int, value: float = 1.0, seconds: int = 0) -> Label:
    return Label("endpoint", f"{index:032x}", "", value, NOW + timedelta(seconds=seconds))


async def two_days(world: ServiceWorld) -> None:
    await world.write(
        *(a_request(i, SPRING + DAY * (i // 4), 0.9 if i % 2 else 0.1) for i in range(8)),
        a_request(99, SPRING + 2 * DAY),
    )


async def test_late_labels_make_quality_known(world: ServiceWorld) -> None:
    rule = AlertRule("accuracy", "accuracy", Comparison.LESS, 0.6)
    monitor = await world.create(alert_rules=(rule,))
    await two_days(world)
    assert world.told(monitoring_events_pb2.AlertChanged) == []
    await world.cases.labels.take([label(i, float(i < 2)) for i in range(4)])
    done = await recomputer(world).recompute()
    assert [(w.label_count, w.revision, w.is_dirty) for w in done] == [(4, 2, False)]
    windows = await world.windows(monitor)
    assert [(w.row_count, w.label_count, w.revision) for w in windows] == [
        (4, 4, 2),
        (4, 0, 1),
        (0, 0, 0),
    ]
    (alert,) = world.told(monitoring_events_pb2.AlertChanged)
    assert (alert.alert.metric, alert.alert.column, alert.alert.value) == (
        "accuracy",
        ":table",
        0.5,
    )


async def test_a_corrected_label_counts_once(world: ServiceWorld) -> None:
    monitor = await world.create()
    await two_days(world)
    await world.cases.labels.take([label(1, 0.0)])
    await world.cases.labels.take([label(1, 1.0, seconds=5), label(1, 0.0, seconds=4)])
    await recomputer(world).recompute()
    values = await world.memory.values(
        monitor, [(await world.windows(monitor))[0].start_us], ["accuracy"]
    )
    assert list(values.values()) == [{"accuracy": {":table": 1.0}}]


async def test_labels_before_their_rows_count_when_the_window_closes(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.cases.labels.take([label(0), label(1)])
    await two_days(world)
    first, *_ = await world.windows(monitor)
    assert (first.label_count, first.revision) == (2, 1)


async def test_labels_of_open_windows_wait_for_their_end(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING))
    await world.cases.labels.take([label(0)])
    assert await recomputer(world).recompute() == []
    await world.write(a_request(1, SPRING + DAY))
    first, *_ = await world.windows(monitor)
    assert (first.label_count, first.revision, first.is_dirty) == (1, 1, False)


async def test_labels_of_unknown_requests_change_nothing(world: ServiceWorld) -> None:
    await world.create()
    await two_days(world)
    before = len(world.store.events)
    await world.cases.labels.take([label(12345)])
    assert await recomputer(world).recompute() == []
    assert len(world.store.events) == before


async def test_a_stream_of_labels_is_computed_in_few_batches(world: ServiceWorld) -> None:
    monitor = await world.create()
    await two_days(world)

    async def labelled() -> list[WindowRecord]:
        windows = await world.windows(monitor)
        assert [w.label_count for w in windows[:2]] == [4, 4]
        return windows

    async with running(recomputer(world)):
        for index in range(8):
            await world.cases.labels.take([label(index)])
        windows = await eventually(labelled)
    assert sum(window.revision for window in windows) <= 6


async def test_what_fails_is_tried_again(
    world: ServiceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = await world.create()
    await two_days(world)
    tried = 0
    compute = world.memory.compute_quality

    async def away(*arguments: object) -> object:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise Unavailable("ClickHouse does not answer")
        return await compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(world.memory, "compute_quality", away)

    async def labelled() -> bool:
        return (await world.windows(monitor))[0].label_count == 1

    async with running(recomputer(world)):
        await world.cases.labels.take([label(0)])
        await eventually(labelled)
    assert tried == 2
