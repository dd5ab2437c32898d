"""Refreshing, closing, listing and watching."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.monitoring.domain.alerts import AlertState
from services.monitoring.domain.monitor import (
    AlertRule,
    Comparison,
    SnapshotProfile,
    TimeSeriesProfile,
)
from services.monitoring.domain.windows import WindowState, microseconds
from services.monitoring.errors import MonitorNotFound
from services.monitoring.ports import MetricQuery
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import monitoring_events_pb2
from tessera_kit.errors import PermissionDenied
from tests.monitoring_world import DAY, DAY_US, NOW, SPRING, ServiceWorld, a_request

FIRST = microseconds(SPRING)
CLOSED, OPEN = WindowState.CLOSED, WindowState.OPEN
RULE = AlertRule("high", "avg", Comparison.GREATER, 5.0, ("x",))
MONITOR = securable_pb2.SECURABLE_TYPE_MONITOR


@pytest.fixture
def world() -> ServiceWorld:
    return ServiceWorld()


async def test_a_table_in_time_is_computed_when_it_is_refreshed(world: ServiceWorld) -> None:
    table = world.add_table("main.flights.days", {"at": "DateTime", "x": "Float64"})
    world.memory.rows[table] += [
        {"at": SPRING + timedelta(hours=8 * i), "x": float(i)} for i in range(7)
    ]
    monitor = await world.create(
        TimeSeriesProfile("at", DAY), table_full_name="main.flights.days", alert_rules=(RULE,)
    )
    cases, ann = world.cases, world.ann.principal
    windows = await cases.refresh.refresh(ann, monitor.name, None, None)
    # The rule does not judge the last window: rows may still come, so it is open.
    assert [(w.state, w.row_count) for w in windows] == [(CLOSED, 3), (CLOSED, 3), (OPEN, 1)]
    assert await world.store.list_alerts(None, (), None, 10) == []
    part = await cases.refresh.refresh(ann, monitor.name, FIRST + DAY_US, FIRST + 2 * DAY_US)
    assert [(w.start_us, w.revision) for w in part] == [(FIRST + DAY_US, 2)]
    assert await cases.refresh.refresh(ann, monitor.name, FIRST + 9 * DAY_US, None) == []
    closed = await cases.refresh.close(ann, monitor.name)
    assert [(w.start_us, w.revision) for w in closed] == [(FIRST + 2 * DAY_US, 2)]
    (alert,) = await world.store.list_alerts(None, (), None, 10)
    assert alert.value == 6.0
    assert await cases.refresh.close(ann, monitor.name) == []
    assert len(world.told(monitoring_events_pb2.WindowClosed)) == 5


async def test_each_refresh_of_a_snapshot_is_a_window_of_its_own(world: ServiceWorld) -> None:
    table = world.add_table("main.flights.planes", {"seats": "Int32"})
    world.memory.rows[table].append({"seats": 100})
    monitor = await world.create(SnapshotProfile(), table_full_name="main.flights.planes")
    cases, ann = world.cases, world.ann.principal
    (first,) = await cases.refresh.refresh(ann, monitor.name, None, None)
    assert (first.start_us, first.end_us) == (microseconds(NOW), microseconds(NOW))
    world.memory.rows[table].append({"seats": 300})
    world.clock.advance(60)
    (second,) = await cases.refresh.refresh(ann, monitor.name, None, None)
    rows = await cases.reports.metrics(ann, monitor.name, MetricQuery(("avg", "avg_delta")))
    assert [(row.start_us, row.metric, row.value) for row in rows] == [
        (first.start_us, "avg", 100.0),
        (second.start_us, "avg", 200.0),
        (second.start_us, "avg_delta", 100.0),
    ]
    assert await cases.refresh.close(ann, monitor.name) == []


async def test_closing_takes_what_was_never_told_of(world: ServiceWorld) -> None:
    monitor = await world.create()
    world.memory.requests[world.payload] += [a_request(0, SPRING), a_request(1, SPRING + DAY)]
    closed = await world.cases.refresh.close(world.ann.principal, monitor.name)
    assert [(w.state, w.row_count) for w in closed] == [(CLOSED, 1), (CLOSED, 1)]
    # The stream hears of them later and finds them settled.
    await world.observer.observe([world.written(world.memory.requests[world.payload])])
    assert [w.revision for w in await world.windows(monitor)] == [1, 1]


async def test_open_windows_are_listed_with_the_rows_they_have_now(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING), a_request(1, SPRING + DAY))
    world.memory.requests[world.payload].append(a_request(2, SPRING + DAY))
    windows = await world.cases.reports.windows(world.ann.principal, monitor.name, None, 10)
    assert [(w.state, w.row_count) for w in windows] == [(CLOSED, 1), (OPEN, 2)]
    page = await world.cases.reports.windows(world.ann.principal, monitor.name, FIRST, 10)
    assert [w.start_us for w in page] == [FIRST + DAY_US]


async def test_alerts_of_all_monitors_are_those_that_the_caller_may_read(
    world: ServiceWorld,
) -> None:
    monitors = [await world.create(alert_rules=(RULE,)) for _ in range(3)]
    await world.write(a_request(0, SPRING, inputs={"x": [9.0]}), a_request(1, SPRING + DAY))
    reports, bob = world.cases.reports, world.bob.principal
    assert await reports.alerts(bob, "", (), None, 10) == []
    shared = monitors[1].name
    world.authority.grant("bob", [securable_pb2.PRIVILEGE_SELECT], MONITOR, shared)
    assert [a.monitor for a in await reports.alerts(bob, "", (), None, 10)] == [shared]
    assert len(await reports.alerts(world.ann.principal, "", (), None, 10)) == 3
    assert await reports.alerts(bob, shared, {AlertState.RESOLVED}, None, 10) == []
    with pytest.raises(MonitorNotFound):
        await reports.alerts(bob, monitors[0].name, (), None, 10)


async def test_a_watcher_sees_what_fires_and_what_resolves(world: ServiceWorld) -> None:
    monitor = await world.create(alert_rules=(RULE,))
    await world.write(a_request(0, SPRING, inputs={"x": [9.0]}), a_request(1, SPRING + DAY))
    watch = world.cases.reports.watch(world.ann.principal, monitor.name)
    first = await anext(watch)
    assert first.state is AlertState.FIRING
    waiting = asyncio.ensure_future(anext(watch))
    await world.write(a_request(2, SPRING + 2 * DAY))
    async with asyncio.timeout(1):
        second = await waiting
    assert second == replace(first, state=AlertState.RESOLVED, resolved_at=second.resolved_at)


async def test_watching_ends_with_the_right_to_read(world: ServiceWorld) -> None:
    monitor = await world.create()
    grant = ("bob", [securable_pb2.PRIVILEGE_SELECT], MONITOR, monitor.name)
    world.authority.grant(*grant)
    world.authority.grant("bob", [securable_pb2.PRIVILEGE_BROWSE], MONITOR, monitor.name)
    watch = world.cases.reports.watch(world.bob.principal, monitor.name)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    world.authority.revoke(*grant)
    world.cases.computer.alerts.notify()
    with pytest.raises(PermissionDenied):
        await waiting


async def test_watching_ends_with_the_monitor(world: ServiceWorld) -> None:
    monitor = await world.create()
    watch = world.cases.reports.watch(world.ann.principal, monitor.name)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await world.cases.monitors.delete(world.ann, monitor.name, "")
    world.cases.computer.alerts.notify()
    with pytest.raises(MonitorNotFound):
        await waiting
