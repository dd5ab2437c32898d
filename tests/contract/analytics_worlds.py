"""What the contracts of monitoring's analytics share: where they run, and requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.monitoring.adapters.memory.rows import Request
from services.monitoring.domain.monitor import (
    Monitor,
)
from services.monitoring.domain.windows import Touch, microseconds
from services.monitoring.ports import MetricQuery, MetricRow, WindowJob
from tests.monitoring_world import (
    DAY,
    DAY_US,
    NOW,
    SPRING,
    AnalyticsWorld,
    ClickHouseWorld,
    MemoryWorld,
    a_request,
)

FIRST = microseconds(SPRING)


def flights(count: int, seed: int = 1, start: int = 0) -> list[Request]:
    """Requests of two days, some failed, some without a carrier."""
    chance = random.Random(seed)  # noqa: S311
    return [
        a_request(
            start + index,
            SPRING + DAY * (index % 2) + timedelta(minutes=index % 1440),
            chance.random(),
            inputs={
                "distance": [chance.choice([100.0, 250.5, 900.0, 1400.0])],
                "carrier": [chance.choice(["AA", "UA", None])],
            },
            status_code=13 if index % 10 == 9 else 0,
            model_version=1 + index % 3 // 2,
            client_request_id=f"flight-{start + index}",
        )
        for index in range(count)
    ]


def jobs(monitor: Monitor, touches: Sequence[Touch], revision: int = 1) -> list[WindowJob]:
    return [
        WindowJob(
            touch.start_us,
            touch.start_us + DAY_US,
            revision,
            touch.requests,
            touches[index - 1].start_us if index else None,
        )
        for index, touch in enumerate(touches)
    ]


async def computed(world: AnalyticsWorld, monitor: Monitor, revision: int = 1) -> list[MetricRow]:
    """What the analytics say of all of a monitor's windows."""
    schema = await world.analytics.read_schema(monitor, None, None)
    slices = None
    if monitor.baseline is not None:
        slices = await world.analytics.compute_baseline(monitor, NOW)
    touches = await world.analytics.touched(monitor, schema, None)
    await world.analytics.compute(monitor, schema, jobs(monitor, touches, revision), slices, NOW)
    return await world.analytics.list_metrics(monitor, MetricQuery(limit=10_000))


class InMemory:
    """Runs a contract over rows in memory."""

    @pytest.fixture
    def world(self) -> AnalyticsWorld:
        return MemoryWorld()


class InClickHouse:
    """Runs a contract over rows in ClickHouse."""

    @pytest.fixture
    async def world(self, clickhouse_world: ClickHouseWorld) -> AnalyticsWorld:
        # Tests label requests of the same ids.
        await clickhouse_world.client.command("TRUNCATE TABLE labels")
        return clickhouse_world
