"""Canaries on their way: begun, driven by rows, taken back by errors and alerts, over restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from services.inference.consumers import alert_handlers
from services.inference.domain.canary import CanaryGuards, CanaryPlan, CanaryState, CanaryStep
from services.inference.domain.endpoint import Endpoint
from services.inference.domain.table import COLUMNS
from services.inference.errors import CanaryRuns, InvalidConfig, NoCanary
from services.inference.handlers.canaries import Canaries
from services.inference.sink.rows import Row
from tessera.events.v1 import monitoring_events_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.event import new_event
from tessera_kit.errors import PermissionDenied
from tessera_kit.ids import new_id
from tests.unit.inference.control import ADA, BOB, Control, entity

OLD, NEW = "delay-1", "delay-2"
GUARDS = CanaryGuards(max_error_rate=0.1, min_requests=10, on_alert=True)


def plan(guards: CanaryGuards = GUARDS, *, seconds: int = 0, requests: int = 20) -> CanaryPlan:
    steps = (
        CanaryStep(1, timedelta(seconds=seconds), requests),
        CanaryStep(10, timedelta(seconds=seconds), requests),
        CanaryStep(100),
    )
    return CanaryPlan(NEW, steps, guards)


class World:
    """A control plane with an endpoint of two versions, and canaries."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.canaries = self.restarted()

    def restarted(self) -> Canaries:
        """The canaries as a new process has them."""
        return Canaries(
            handlers=self.control.handlers,
            endpoints=self.control.endpoints,
            reader=self.control.payloads,
            deployer=self.control.deployer,
            clock=self.control.clock,
        )

    async def endpoint(self) -> Endpoint:
        return await self.control.endpoints.get("delays")

    async def shares(self) -> dict[str, int]:
        config = (await self.endpoint()).config
        assert config is not None
        return {one.name: one.traffic_percent for one in config.entities}

    async def answer(self, count: int, *, failed: int = 0, by: str = NEW, **values: Any) -> None:
        """Write rows of requests that were answered just now."""
        endpoint = await self.endpoint()
        self.control.clock.advance(0.001)
        now = int(self.control.clock.now().timestamp() * 1_000_000)
        rows = []
        for number in range(count):
            columns: dict[str, Any] = {column.name: "" for column in COLUMNS}
            columns |= {
                "served_entity_id": by,
                "status_code": 13 if number < failed else 0,
                "config_version": 1,
                "sampling_fraction": 1.0,
                "execution_duration_ms": 1.0,
                "route": "PRIMARY",
                "failed_entity_ids": [],
                **values,
            }
            record = ConsumedRecord("t", 0, 0, None, None, None, ())
            rows.append(Row(new_id(), "delays", now, now, record, columns))
        await self.control.payloads.insert(endpoint.table, rows, new_id())
        self.control.clock.advance(0.001)


@pytest.fixture
async def world(manifest: dict[str, Any]) -> AsyncIterator[World]:
    control = Control(manifest)
    await control.created(entities=[entity(1), entity(2, share=0)])
    yield World(control)
    await control.deployer.idle()


async def test_a_good_canary_gets_all_traffic_step_by_step(world: World) -> None:
    await world.canaries.start(ADA, "delays", plan(), "")
    assert await world.shares() == {OLD: 99, NEW: 1}
    assert world.control.routes.find("delays").endpoint.etag == (await world.endpoint()).etag
    await world.answer(19)
    await world.canaries.look()
    assert await world.shares() == {OLD: 99, NEW: 1}
    await world.answer(1)
    await world.canaries.look()
    assert await world.shares() == {OLD: 90, NEW: 10}
    await world.canaries.look()
    assert await world.shares() == {OLD: 90, NEW: 10}, "rows of the step before do not count"
    world.canaries = world.restarted()
    for _ in range(2):
        await world.answer(20, failed=1)
        await world.canaries.look()
    assert await world.shares() == {OLD: 0, NEW: 100}
    canary = (await world.endpoint()).canary
    assert canary is not None
    assert canary.state is CanaryState.SUCCEEDED
    assert world.control.steps()[2:] == [
        *("CANARY_STARTED", "CANARY_ADVANCED", "CANARY_ADVANCED", "CANARY_SUCCEEDED")
    ]


async def test_errors_take_a_canary_back(world: World) -> None:
    await world.canaries.start(ADA, "delays", plan(), "")
    await world.answer(10, failed=2)
    await world.canaries.look()
    canary = (await world.endpoint()).canary
    assert canary is not None
    assert canary.state is CanaryState.ROLLED_BACK
    assert "2 of 10" in canary.reason
    assert await world.shares() == {OLD: 100, NEW: 0}
    assert world.control.steps()[-1] == "CANARY_ROLLED_BACK"


async def test_requests_that_others_answered_for_it_are_its_errors(world: World) -> None:
    await world.canaries.start(ADA, "delays", plan(), "")
    await world.answer(8)
    await world.answer(2, by=OLD, route="FALLBACK", failed_entity_ids=[NEW])
    await world.canaries.look()
    canary = (await world.endpoint()).canary
    assert canary is not None
    assert (canary.state, canary.sight.errors) == (CanaryState.ROLLED_BACK, 2)


async def test_mirrors_and_callers_mistakes_are_nobodys_errors(world: World) -> None:
    await world.canaries.start(ADA, "delays", plan(), "")
    await world.answer(20)
    await world.answer(9, failed=9, route="SHADOW")
    await world.answer(5, status_code=3)
    await world.canaries.look()
    assert await world.shares() == {OLD: 90, NEW: 10}


async def test_a_slow_canary_is_taken_back(world: World) -> None:
    guards = CanaryGuards(max_p99_ratio=3.0, min_requests=5)
    await world.canaries.start(ADA, "delays", plan(guards), "")
    await world.answer(10, by=OLD, execution_duration_ms=2.0)
    await world.answer(10, execution_duration_ms=7.0)
    await world.canaries.look()
    assert await world.shares() == {OLD: 100, NEW: 0}


async def test_time_alone_does_not_grow_what_could_not_be_judged(world: World) -> None:
    await world.canaries.start(ADA, "delays", plan(seconds=60, requests=0), "")
    await world.answer(5)
    world.control.clock.advance(120)
    await world.canaries.look()
    assert await world.shares() == {OLD: 99, NEW: 1}
    await world.answer(5)
    await world.canaries.look()
    assert await world.shares() == {OLD: 90, NEW: 10}


@pytest.mark.parametrize(
    ("monitors", "state"),
    [
        (frozenset(), CanaryState.ROLLED_BACK),
        (frozenset({"drift"}), CanaryState.ROLLED_BACK),
        (frozenset({"other"}), CanaryState.RUNNING),
    ],
)
async def test_an_alert_takes_a_canary_back(
    world: World, monitors: frozenset[str], state: CanaryState
) -> None:
    guards = CanaryGuards(on_alert=True, monitors=monitors)
    await world.canaries.start(ADA, "delays", plan(guards), "")
    handler = alert_handlers(world.canaries)[monitoring_events_pb2.AlertChanged]

    async def tell(table: str, seconds: float, alert_state: Any) -> None:
        alert = monitor_pb2.Alert(monitor="drift", rule="psi", state=alert_state)
        alert.fired_at.FromDatetime(world.control.clock.now() + timedelta(seconds=seconds))
        message = monitoring_events_pb2.AlertChanged(alert=alert, table_full_name=table)
        await handler(new_event(message, source="test", key="drift"), None)

    table = (await world.endpoint()).table.full_name
    await tell(table, -60, monitor_pb2.ALERT_STATE_FIRING)
    await tell("main.flights.other", 1, monitor_pb2.ALERT_STATE_FIRING)
    await tell(table, 1, monitor_pb2.ALERT_STATE_RESOLVED)
    canary = (await world.endpoint()).canary
    assert canary is not None
    assert canary.state is CanaryState.RUNNING
    for _ in range(2):
        await tell(table, 1, monitor_pb2.ALERT_STATE_FIRING)
    canary = (await world.endpoint()).canary
    assert canary is not None
    assert canary.state is state
    assert world.control.steps().count("CANARY_ROLLED_BACK") == (state is CanaryState.ROLLED_BACK)


async def test_a_canary_is_ended_by_hand(world: World) -> None:
    with pytest.raises(NoCanary):
        await world.canaries.end(ADA, "delays", True, "")
    await world.canaries.start(ADA, "delays", plan(), "")
    with pytest.raises(CanaryRuns):
        await world.canaries.start(ADA, "delays", plan(), "")
    await world.canaries.end(ADA, "delays", False, "")
    assert await world.shares() == {OLD: 100, NEW: 0}
    await world.canaries.start(ADA, "delays", plan(), "")
    await world.canaries.end(ADA, "delays", True, "")
    assert await world.shares() == {OLD: 0, NEW: 100}
    with pytest.raises(InvalidConfig, match="all traffic"):
        await world.canaries.start(ADA, "delays", plan(), "")


async def test_traffic_changed_by_hand_ends_a_canary(world: World) -> None:
    await world.canaries.start(ADA, "delays", plan(), "")
    await world.control.handlers.update_traffic(ADA, "delays", {OLD: 50, NEW: 50}, "")
    await world.answer(50)
    await world.canaries.look()
    canary = (await world.endpoint()).canary
    assert canary is not None
    assert canary.state is CanaryState.CANCELED
    assert await world.shares() == {OLD: 50, NEW: 50}


async def test_only_managers_begin_and_end_canaries(world: World) -> None:
    control = world.control
    from tessera.catalog.v1 import securable_pb2

    control.authority.grant(
        "bob",
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_ENDPOINT,
        "delays",
    )
    with pytest.raises(PermissionDenied):
        await world.canaries.start(BOB, "delays", plan(), "")
    with pytest.raises(PermissionDenied):
        await world.canaries.end(BOB, "delays", True, "")


@pytest.mark.parametrize(
    ("steps", "field"),
    [
        ((CanaryStep(10, requests=1), CanaryStep(10, requests=1), CanaryStep(100)), "steps[1]"),
        ((CanaryStep(10, requests=1),), "plan.steps"),
        ((CanaryStep(10), CanaryStep(100)), "steps[0]"),
    ],
)
async def test_plans_that_cannot_be_followed_are_refused(
    world: World, steps: tuple[CanaryStep, ...], field: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        await world.canaries.start(ADA, "delays", CanaryPlan(NEW, steps, CanaryGuards()), "")
    assert field in caught.value.violations[0].field
