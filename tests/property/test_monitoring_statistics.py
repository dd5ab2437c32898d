"""Every metric that SQL computes equals its definition in numpy, whatever the values."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devstack import Stack
from services.monitoring.adapters.clickhouse.profile import RESOLUTION
from services.monitoring.adapters.memory import statistics
from services.monitoring.adapters.memory.statistics import Sample
from services.monitoring.domain.monitor import Baseline, ProblemType, TimeSeriesProfile
from services.monitoring.domain.windows import microseconds
from services.monitoring.ports import Label, MetricQuery, MetricRow, WindowJob
from tests.monitoring_world import (
    DAY,
    DAY_US,
    NOW,
    SPRING,
    AnalyticsWorld,
    ClickHouseWorld,
    MemoryWorld,
    a_monitor,
    a_request,
    inference,
    open_clickhouse,
)

TYPES = {"at": "DateTime64(6, 'UTC')", "x": "Nullable(Float64)", "w": "Nullable(String)"}
few = settings(
    max_examples=5,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = st.one_of(
    st.none(),
    st.sampled_from([0.0, -1.0, 1.0, 2.5, math.nan, math.inf, -math.inf]),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)),
)
words = ["", "a", "b", "NaN", "ü", "日本"]
texts = st.one_of(st.none(), st.sampled_from(words), st.text(max_size=3))
window = st.lists(st.tuples(numbers, texts), min_size=1, max_size=40)


@pytest.fixture(scope="module")
async def clickhouse_world(stack: Stack) -> AsyncIterator[ClickHouseWorld]:
    async with open_clickhouse(stack.environment) as world:
        yield world


Rows = Sequence[Sequence[tuple[float | None, str | None]]]


async def time_series_metrics(
    world: AnalyticsWorld, windows: Rows, baseline: Sequence[tuple[float | None, str | None]]
) -> list[MetricRow]:
    rows = [
        {"at": SPRING + DAY * day + timedelta(seconds=second), "x": x, "w": w}
        for day, values in enumerate(windows)
        for second, (x, w) in enumerate(values)
    ]
    compared = await world.table(TYPES, [{"at": SPRING, "x": x, "w": w} for x, w in baseline])
    monitor = await world.metric_tables(
        a_monitor(
            TimeSeriesProfile("at", DAY),
            source=await world.table(TYPES, rows),
            baseline=Baseline("main.a.b", physical=compared),
        )
    )
    schema = await world.analytics.read_schema(monitor, None, None)
    slices = await world.analytics.compute_baseline(monitor, NOW)
    first = microseconds(SPRING)
    starts = [first + day * DAY_US for day in range(len(windows))]
    jobs = [
        WindowJob(start, start + DAY_US, 1, before_us=start - DAY_US if start > first else None)
        for start in starts
    ]
    await world.analytics.compute(monitor, schema, jobs, slices, NOW)
    return await world.analytics.list_metrics(monitor, MetricQuery(limit=10_000))


@few
@given(st.lists(window, min_size=1, max_size=12), window)
async def test_profiles_and_drift_equal_their_definitions(
    clickhouse_world: ClickHouseWorld,
    windows: list[list[tuple[float | None, str | None]]],
    baseline: list[tuple[float | None, str | None]],
) -> None:
    expected = await time_series_metrics(MemoryWorld(), windows, baseline)
    found = await time_series_metrics(clickhouse_world, windows, baseline)
    assert_same(found, expected)


def assert_same(found: Sequence[MetricRow], expected: Sequence[MetricRow]) -> None:
    values = {place(row): row.value for row in expected}
    assert {place(row) for row in found} == values.keys()
    for row in found:
        assert row.value == pytest.approx(values[place(row)], rel=1e-7, abs=1e-9), row


def place(row: MetricRow) -> tuple[int, str, str, str]:
    return row.start_us, row.column, row.metric, row.drift_type


probability = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1).map(lambda p: round(p, 2)), st.none()
)
label = st.sampled_from([0.0, 1.0, 0.0, 1.0, 3.0, None])
judged = st.lists(st.tuples(probability, label), min_size=1, max_size=30)


@few
@given(st.lists(judged, min_size=1, max_size=12), st.sampled_from(ProblemType))
async def test_quality_equals_its_definitions(
    clickhouse_world: ClickHouseWorld,
    windows: list[list[tuple[float | None, float | None]]],
    problem: ProblemType,
) -> None:
    await clickhouse_world.client.command("TRUNCATE TABLE labels")
    expected = await inference_metrics(MemoryWorld(), windows, problem)
    found = await inference_metrics(clickhouse_world, windows, problem)
    assert_same(found, expected)


async def inference_metrics(
    world: AnalyticsWorld,
    windows: Sequence[Sequence[tuple[float | None, float | None]]],
    problem: ProblemType,
) -> list[MetricRow]:
    pairs = [(day, *pair) for day, judged in enumerate(windows) for pair in judged]
    requests = [a_request(i, SPRING + DAY * day, p) for i, (day, p, _) in enumerate(pairs)]
    monitor = await world.metric_tables(
        a_monitor(inference(problem), source=await world.inference_table(requests), columns=("x",))
    )
    await world.analytics.write_labels(
        [
            Label("endpoint", request.tessera_request_id, "", y, NOW)
            for request, (_, _, y) in zip(requests, pairs, strict=True)
            if y is not None
        ]
    )
    schema = await world.analytics.read_schema(monitor, None, None)
    touches = await world.analytics.touched(monitor, schema, None)
    jobs = [WindowJob(t.start_us, t.start_us + DAY_US, 1, t.requests) for t in touches]
    await world.analytics.compute_quality(monitor, schema, jobs, NOW)
    return await world.analytics.list_metrics(monitor, MetricQuery(limit=10_000))


async def test_many_distinct_values_are_compared_within_one_share(
    clickhouse_world: ClickHouseWorld,
) -> None:
    count = 5 * RESOLUTION
    baseline = [(math.sin(i) * 100, None) for i in range(count)]
    rows = [[(math.sin(i) * 100 + 10 * math.cos(i / 3), None) for i in range(count)]]
    found = await time_series_metrics(clickhouse_world, rows, baseline)
    exact = statistics.drift(
        Sample(True, [x for x, _ in rows[0]]), Sample(True, [x for x, _ in baseline])
    )
    drift = {row.metric: row.value for row in found if row.drift_type and row.column == "x"}
    assert drift["ks_test.statistic"] == pytest.approx(
        exact["ks_test.statistic"], abs=2 / RESOLUTION
    )
    spread = 220.0
    assert drift["wasserstein_distance"] == pytest.approx(
        exact["wasserstein_distance"], abs=2 * spread / RESOLUTION
    )
    assert drift["js_distance"] == pytest.approx(exact["js_distance"], abs=0.01)
    profile = {row.metric: row.value for row in found if not row.drift_type and row.column == "x"}
    own = statistics.profile(Sample(True, [x for x, _ in rows[0]]))
    assert profile == pytest.approx(own, rel=1e-9)
