"""Rows that become readable open windows, close them, and open closed ones anew."""

from __future__ import annotations

import pytest

from services.monitoring.domain.monitor import AlertRule, Comparison, Monitor
from services.monitoring.domain.windows import WindowState, microseconds
from services.monitoring.handlers.stream import merge_batches
from services.monitoring.ports import MetricQuery
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import monitoring_events_pb2
from tessera_kit.errors import Unavailable
from tests.monitoring_world import DAY, DAY_US, SPRING, ServiceWorld, a_request

FIRST = microseconds(SPRING)
CLOSED, OPEN = WindowState.CLOSED, WindowState.OPEN


@pytest.fixture
def world() -> ServiceWorld:
    return ServiceWorld()


async def test_a_window_opens_with_its_first_row(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING), a_request(1, SPRING + DAY / 2))
    (window,) = await world.windows(monitor)
    assert (window.start_us, window.end_us) == (FIRST, FIRST + DAY_US)
    assert (window.state, window.revision) == (OPEN, 0)
    assert world.told(monitoring_events_pb2.WindowClosed) == []


async def test_a_window_closes_once_when_rows_pass_its_end(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING), a_request(1, SPRING))
    await world.write(a_request(2, SPRING + DAY))
    first, second = await world.windows(monitor)
    assert (first.state, first.row_count, first.revision) == (CLOSED, 2, 1)
    assert (second.state, second.revision) == (OPEN, 0)
    await world.write(a_request(3, SPRING + DAY))
    (told,) = world.told(monitoring_events_pb2.WindowClosed)
    assert told.monitor == monitor.name
    assert (told.window.row_count, told.window.revision) == (2, 1)
    assert told.window.start.ToMicroseconds() == FIRST


async def test_lateness_keeps_a_window_open(world: ServiceWorld) -> None:
    monitor = await world.create(allowed_lateness=DAY)
    await world.write(a_request(0, SPRING), a_request(1, SPRING + DAY))
    assert [window.state for window in await world.windows(monitor)] == [OPEN, OPEN]
    await world.write(a_request(2, SPRING), a_request(3, SPRING + 2 * DAY))
    first, *_ = await world.windows(monitor)
    assert (first.state, first.row_count) == (CLOSED, 2)


async def test_late_rows_compute_a_closed_window_anew(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING), a_request(1, SPRING + DAY))
    await world.write(a_request(2, SPRING))
    first, second = await world.windows(monitor)
    assert (first.state, first.row_count, first.revision) == (CLOSED, 2, 2)
    assert second.state is OPEN
    revisions = [told.window.revision for told in world.told(monitoring_events_pb2.WindowClosed)]
    assert revisions == [1, 2]


async def test_hearing_of_the_same_rows_again_changes_nothing(world: ServiceWorld) -> None:
    monitor = await world.create()
    rows = [a_request(0, SPRING), a_request(1, SPRING + DAY), a_request(2, SPRING + 2 * DAY)]
    await world.write(*rows)
    before, events = await world.windows(monitor), len(world.store.events)
    await world.observer.observe([world.written(rows), world.written(rows[:1])])
    world.restart()
    await world.observer.observe([world.written(rows)])
    assert await world.windows(monitor) == before
    assert len(world.store.events) == events


async def test_failed_requests_open_no_window(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING, status_code=3))
    assert await world.windows(monitor) == []


async def test_a_lost_state_is_rebuilt_from_the_table(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING), a_request(1, SPRING + DAY))
    world.states.states.clear()
    world.restart()
    # These were never told of: the process that was told lost what it knew.
    world.memory.requests[world.payload].append(a_request(2, SPRING + DAY))
    await world.write(a_request(3, SPRING + 2 * DAY))
    found = [(w.state, w.row_count, w.revision) for w in await world.windows(monitor)]
    assert found == [(CLOSED, 1, 1), (CLOSED, 2, 1), (OPEN, 0, 0)]


async def test_after_a_restart_recent_rows_are_looked_at_again(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING))
    old = world.states.get(monitor.id)
    assert old is not None
    await world.write(a_request(1, SPRING + DAY))
    # The changelog was read to an early end: the state is that of before the second row.
    world.states.put(monitor.id, old)
    world.restart()
    await world.write(a_request(2, SPRING + 2 * DAY))
    found = [(w.state, w.row_count) for w in await world.windows(monitor)]
    assert found == [(CLOSED, 1), (CLOSED, 1), (OPEN, 0)]


async def test_a_failure_is_made_good_when_it_is_tried_again(
    world: ServiceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = await world.create()
    await world.write(a_request(0, SPRING))
    with monkeypatch.context() as patch:

        async def away(*_: object) -> None:
            raise Unavailable("ClickHouse does not answer")

        patch.setattr(world.memory, "compute", away)
        with pytest.raises(Unavailable):
            await world.write(a_request(1, SPRING + DAY))
    assert [w.state for w in await world.windows(monitor)] == [OPEN, OPEN]
    assert world.told(monitoring_events_pb2.WindowClosed) == []
    await world.observer.observe([world.written([a_request(1, SPRING + DAY)])])
    assert [w.state for w in await world.windows(monitor)] == [CLOSED, OPEN]


async def test_one_monitors_trouble_is_not_anothers(world: ServiceWorld) -> None:
    broken, sound = await world.create(), await world.create()
    table = world.add_table("main.flights.train", {"x": "Float64"})
    world.memory.rows[table].append({"x": 1.0})
    privileged = [securable_pb2.PRIVILEGE_SELECT]
    world.authority.revoke("ann", privileged, securable_pb2.SECURABLE_TYPE_METASTORE, "metastore")
    await world.write(a_request(0, SPRING), a_request(1, SPRING + DAY))
    for monitor in (broken, sound):
        assert {w.state for w in await world.windows(monitor)} == {OPEN}
    # What could not be computed for want of rights is when they are back.
    world.authority.grant("ann", privileged, securable_pb2.SECURABLE_TYPE_METASTORE, "metastore")
    await world.write(a_request(2, SPRING + DAY))
    for monitor in (broken, sound):
        assert [w.state for w in await world.windows(monitor)] == [CLOSED, OPEN]


async def test_rows_of_other_tables_are_passed_over(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.observer.observe([world.written([a_request(0, SPRING)], "main.flights.other")])
    assert await world.windows(monitor) == []


async def test_many_windows_close_at_once_in_order(world: ServiceWorld) -> None:
    monitor = await world.create()
    await world.write(*(a_request(day, SPRING + day * DAY) for day in range(80)))
    windows = await world.windows(monitor)
    assert [w.state for w in windows] == [CLOSED] * 79 + [OPEN]
    starts = [
        told.window.start.ToMicroseconds()
        for told in world.told(monitoring_events_pb2.WindowClosed)
    ]
    assert starts == [FIRST + day * DAY_US for day in range(79)]


async def test_an_alert_fires_and_resolves_once_each(world: ServiceWorld) -> None:
    rule = AlertRule("high", "avg", Comparison.GREATER, 5.0, ("x",), consecutive_windows=2)
    monitor = await world.create(alert_rules=(rule,))
    levels = [1.0, 9.0, 9.0, 9.0, 1.0, 1.0]
    for day, level in enumerate(levels):
        await world.write(a_request(day, SPRING + day * DAY, inputs={"x": [level]}))
    await world.write(a_request(99, SPRING + 9 * DAY))
    told = [(a.alert.state, a.alert.column) for a in world.told(monitoring_events_pb2.AlertChanged)]
    assert told == [(1, "x"), (2, "x")]
    (alert,) = await world.store.list_alerts([monitor.name], (), None, 10)
    assert (alert.start_us, alert.value, alert.threshold) == (FIRST + 2 * DAY_US, 9.0, 5.0)
    assert alert.resolved_at is not None


def test_batches_of_one_table_are_joined(world: ServiceWorld) -> None:
    rows = [a_request(i, SPRING) for i in range(4)]
    merged = merge_batches(
        [world.written(rows[2:3]), world.written(rows[:1]), world.written(rows[3:], "a.b.c")]
    )
    assert merged == {
        "main.flights.delay_payload": world.written(rows[:3]).batch,
        "a.b.c": world.written(rows[3:]).batch,
    }


async def consecutive(world: ServiceWorld, monitor: Monitor, start_us: int) -> dict[str, float]:
    """How much a window's column x drifted from the window before it."""
    query = MetricQuery(columns=("x",), start_us=start_us, end_us=start_us + 1)
    rows = await world.memory.list_metrics(monitor, query)
    return {row.metric: row.value for row in rows if row.drift_type == "CONSECUTIVE"}


async def test_late_rows_correct_the_drift_of_the_window_after(world: ServiceWorld) -> None:
    monitor = await world.create()
    days = [SPRING + DAY * day for day in range(4)]
    await world.write(*(a_request(index, day) for index, day in enumerate(days)))
    second = FIRST + DAY_US
    assert (await consecutive(world, monitor, second))["avg_delta"] == 1 - 0
    await world.write(a_request(8, SPRING))
    found = await consecutive(world, monitor, second)
    assert (found["avg_delta"], found["count_delta"]) == (1 - 4, 1 - 2)
    revisions = [window.revision for window in await world.windows(monitor)]
    # The late window, the one after it, and nobody else.
    assert revisions == [2, 2, 1, 0]


async def test_a_window_that_comes_between_is_what_the_next_is_compared_with(
    world: ServiceWorld,
) -> None:
    monitor = await world.create()
    await world.write(*(a_request(n, SPRING + DAY * n) for n in (0, 2, 3)))
    third = FIRST + 2 * DAY_US
    assert (await consecutive(world, monitor, third))["avg_delta"] == 2 - 0
    await world.write(a_request(1, SPRING + DAY))
    assert (await consecutive(world, monitor, third))["avg_delta"] == 2 - 1


async def test_the_correction_is_judged(world: ServiceWorld) -> None:
    rule = AlertRule("shift", "avg_delta", Comparison.GREATER, 5.0, columns=("x",))
    await world.create(alert_rules=(rule,))
    await world.write(*(a_request(n, SPRING + DAY * n) for n in (10, 11, 12)))
    assert world.told(monitoring_events_pb2.AlertChanged) == []
    late = a_request(0, SPRING + DAY * 10, inputs={"x": [-100.0]})
    await world.write(late)
    (alert,) = world.told(monitoring_events_pb2.AlertChanged)
    assert alert.alert.window_start.ToMicroseconds() == FIRST + 11 * DAY_US
