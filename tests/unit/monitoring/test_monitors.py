"""The life of monitors, and the rights that it needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.monitoring.domain.alerts import AlertState
from services.monitoring.domain.monitor import (
    AlertRule,
    Baseline,
    Comparison,
    Monitor,
    SnapshotProfile,
    TimeSeriesProfile,
)
from services.monitoring.errors import (
    InvalidMonitor,
    MetricTableUnfit,
    MonitorExists,
    MonitorNotFound,
    StaleMonitor,
)
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import catalog_events_pb2, monitoring_events_pb2
from tessera_kit.errors import NotFound, PermissionDenied
from tests.monitoring_world import DAY, NOW, PAYLOAD, SPRING, ServiceWorld, a_request, inference

METASTORE = (securable_pb2.SECURABLE_TYPE_METASTORE, "metastore")
MONITOR = securable_pb2.SECURABLE_TYPE_MONITOR
RULE = AlertRule("high", "avg", Comparison.GREATER, 5.0, ("x",))


@pytest.fixture
def world() -> ServiceWorld:
    return ServiceWorld()


def settings(**changes: Any) -> Monitor:
    return replace(Monitor("delays", PAYLOAD, inference()), **changes)


async def test_a_created_monitor_knows_its_tables_and_its_creator(world: ServiceWorld) -> None:
    made = await world.cases.monitors.create(world.ann, settings(), "")
    assert (made.created_by, made.created_at, made.version) == ("ann", NOW, 1)
    assert made.source == world.payload
    assert made.profile_table_full_name == f"{PAYLOAD}_profile_metrics"
    assert made.drift_table_full_name == f"{PAYLOAD}_drift_metrics"
    assert made.profile_table.table == "delay_payload_profile_metrics"
    assert await world.cases.monitors.get(world.ann.principal, "delays") == made
    assert world.authority.owner_of(MONITOR, "delays") == "ann"
    (lineage,) = world.told(catalog_events_pb2.LineageObserved)
    assert [(e.source.name, e.target.name) for e in lineage.edges] == [
        (PAYLOAD, "delays"),
        ("delays", f"{PAYLOAD}_profile_metrics"),
        ("delays", f"{PAYLOAD}_drift_metrics"),
    ]


async def test_a_repeated_request_id_gives_the_first_result(world: ServiceWorld) -> None:
    create = world.cases.monitors.create
    made = await create(world.ann, settings(), "once")
    assert await create(world.ann, settings(), "once") == made
    with pytest.raises(MonitorExists):
        await create(world.ann, settings(), "twice")


@pytest.mark.parametrize(
    ("privilege", "says"),
    [
        (securable_pb2.PRIVILEGE_CREATE_MONITOR, "CREATE MONITOR"),
        (securable_pb2.PRIVILEGE_SELECT, "SELECT"),
        (securable_pb2.PRIVILEGE_CREATE_TABLE, "CREATE TABLE"),
    ],
)
async def test_creating_needs_rights(
    world: ServiceWorld, privilege: securable_pb2.Privilege, says: str
) -> None:
    world.authority.revoke("ann", [privilege], *METASTORE)
    with pytest.raises(PermissionDenied, match=says):
        await world.cases.monitors.create(world.ann, settings(), "")
    assert await world.store.get_monitor("delays") is None
    assert world.authority.owner_of(MONITOR, "delays") is None
    assert world.store.events == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"profile": inference(granularity=timedelta(milliseconds=999))}, "inference.granularity"),
        ({"profile": TimeSeriesProfile("no", DAY)}, "time_series.timestamp_column"),
        ({"profile": TimeSeriesProfile("request_time", timedelta(0))}, "time_series.granularity"),
        ({"allowed_lateness": timedelta(seconds=-1)}, "allowed_lateness"),
        ({"columns": ("x", "x")}, "columns"),
        ({"columns": ("",)}, "columns"),
        ({"columns": (":table",)}, "columns"),
        ({"profile": SnapshotProfile(), "columns": ("absent",)}, "columns[0]"),
        ({"profile": SnapshotProfile(), "columns": ("request_time",)}, "columns[0]"),
        ({"profile": SnapshotProfile(), "slicing_columns": ("absent",)}, "slicing_columns[0]"),
        ({"slicing_columns": ("a", "a")}, "slicing_columns"),
        ({"alert_rules": (RULE, RULE)}, "alert_rules"),
        ({"alert_rules": (replace(RULE, metric="mood"),)}, "alert_rules[0].metric"),
        ({"alert_rules": (RULE,), "columns": ("y",)}, "alert_rules[0].columns"),
    ],
)
async def test_settings_that_contradict_are_refused_by_field(
    world: ServiceWorld, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidMonitor) as caught:
        await world.cases.monitors.create(world.ann, settings(**changes), "")
    assert [violation.field for violation in caught.value.violations] == [f"monitor.{field}"]


async def test_the_watched_table_must_be_an_inference_table(world: ServiceWorld) -> None:
    world.add_table("main.flights.train", {"x": "Float64"})
    with pytest.raises(InvalidMonitor, match="inference table"):
        await world.create(table_full_name="main.flights.train")


async def test_tables_must_be_there(world: ServiceWorld) -> None:
    with pytest.raises(NotFound):
        await world.create(table_full_name="main.flights.nowhere")
    with pytest.raises(NotFound):
        await world.create(baseline=Baseline("main.flights.nowhere"))


async def test_a_baseline_must_have_watched_columns(world: ServiceWorld) -> None:
    world.add_table("main.flights.train", {"day": "Date", "y": "Float64"})
    with pytest.raises(InvalidMonitor, match="baseline"):
        await world.create(columns=("x",), baseline=Baseline("main.flights.train"))


async def test_a_table_of_another_shape_is_not_written_to(world: ServiceWorld) -> None:
    world.add_table(f"{PAYLOAD}_drift_metrics", {"x": "Float64"})
    with pytest.raises(MetricTableUnfit):
        await world.create()


async def test_two_monitors_of_a_table_share_its_metric_tables(world: ServiceWorld) -> None:
    one, other = await world.create(), await world.create()
    assert one.profile_table == other.profile_table


async def test_others_do_not_see_a_monitor_until_they_may(world: ServiceWorld) -> None:
    monitor = await world.create()
    cases, bob = world.cases, world.bob.principal
    with pytest.raises(MonitorNotFound):
        await cases.monitors.get(bob, monitor.name)
    with pytest.raises(MonitorNotFound):
        await cases.refresh.close(bob, monitor.name)
    assert await cases.monitors.list(bob, "", "", 10) == ([], "")
    world.authority.grant("bob", [securable_pb2.PRIVILEGE_BROWSE], MONITOR, monitor.name)
    assert await cases.monitors.get(bob, monitor.name) == monitor
    assert await cases.monitors.list(bob, PAYLOAD, "", 10) == ([monitor], "")
    for action in (
        cases.reports.windows(bob, monitor.name, None, 10),
        cases.refresh.refresh(bob, monitor.name, None, None),
        cases.monitors.delete(world.bob, monitor.name, ""),
        cases.monitors.update(world.bob, monitor, ["columns"]),
    ):
        with pytest.raises(PermissionDenied):
            await action


async def test_pages_hold_what_the_caller_may_see(world: ServiceWorld) -> None:
    monitors = [await world.create() for _ in range(7)]
    names = sorted(monitor.name for monitor in monitors)
    for name in names[1::2]:
        world.authority.grant("bob", [securable_pb2.PRIVILEGE_SELECT], MONITOR, name)
    seen, after = [], ""
    while True:
        page, after = await world.cases.monitors.list(world.bob.principal, "", after, 2)
        seen += [monitor.name for monitor in page]
        if not after:
            break
        assert len(page) == 2
    assert seen == names[1::2]


async def test_an_update_changes_what_the_mask_names(world: ServiceWorld) -> None:
    monitor = await world.create(columns=("x",))
    wanted = replace(
        monitor,
        columns=("y",),
        allowed_lateness=DAY,
        slicing_columns=("model_version",),
        profile=SnapshotProfile(),
    )
    changed = await world.cases.monitors.update(world.ann, wanted, ["allowed_lateness"])
    assert changed == replace(
        monitor, allowed_lateness=DAY, etag=changed.etag, updated_at=changed.updated_at
    )
    assert changed.etag != monitor.etag
    again = await world.cases.monitors.update(
        world.ann, replace(wanted, etag=changed.etag), ["columns", "slicing_columns"]
    )
    assert (again.columns, again.slicing_columns, again.version) == (("y",), ("model_version",), 2)
    assert await world.store.get_monitor(monitor.name) == again
    with pytest.raises(StaleMonitor):
        await world.cases.monitors.update(world.ann, wanted, ["columns"])


@pytest.mark.parametrize("fields", [[], ["name"], ["columns", "created_by"]])
async def test_a_mask_of_other_fields_is_refused(world: ServiceWorld, fields: list[str]) -> None:
    monitor = await world.create()
    with pytest.raises(InvalidMonitor, match="update_mask"):
        await world.cases.monitors.update(world.ann, monitor, fields)


async def test_a_rule_that_is_taken_away_resolves_its_alert(world: ServiceWorld) -> None:
    monitor = await world.create(alert_rules=(RULE,))
    await world.write(a_request(0, SPRING, inputs={"x": [9.0]}), a_request(1, SPRING + DAY))
    (alert,) = await world.store.list_alerts([monitor.name], (), None, 10)
    assert alert.state is AlertState.FIRING
    await world.cases.monitors.update(world.ann, replace(monitor, alert_rules=()), ["alert_rules"])
    (alert,) = await world.store.list_alerts([monitor.name], (), None, 10)
    assert alert.state is AlertState.RESOLVED
    assert [t.alert.state for t in world.told(monitoring_events_pb2.AlertChanged)] == [1, 2]


async def test_deleting_needs_the_etag_that_was_read(world: ServiceWorld) -> None:
    monitor = await world.create()
    with pytest.raises(StaleMonitor):
        await world.cases.monitors.delete(world.ann, monitor.name, "old")
    await world.cases.monitors.delete(world.ann, monitor.name, monitor.etag)
    assert await world.store.get_monitor(monitor.name) is None
    assert world.authority.owner_of(MONITOR, monitor.name) is None
    with pytest.raises(MonitorNotFound):
        await world.cases.monitors.delete(world.ann, monitor.name, "")
