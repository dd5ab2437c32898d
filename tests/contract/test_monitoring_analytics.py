"""One body over the analytics port, in memory and in ClickHouse: schemas and windows of rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.monitoring.domain.columns import Column, ColumnKind, ColumnPlace
from services.monitoring.domain.monitor import (
    Baseline,
)
from services.monitoring.domain.windows import RequestRange, Touch, WindowRecord, microseconds
from services.monitoring.errors import TableNotReadable
from services.monitoring.ports import Label, RowBatch
from tests.contract.analytics_worlds import FIRST, InClickHouse, InMemory, flights
from tests.helpers import unique_name
from tests.monitoring_world import (
    DAY,
    DAY_US,
    NOW,
    SPRING,
    AnalyticsWorld,
    a_monitor,
    a_request,
    inference,
)


class AnalyticsContract:
    async def test_schema_of_an_inference_table_is_found_in_its_requests(
        self, world: AnalyticsWorld
    ) -> None:
        requests = [
            *flights(20),
            a_request(90, SPRING, inputs={"flag": [True], "vector": [[1.0, 2.0]], "void": [None]}),
            a_request(91, SPRING, inputs={"late": [1.5], "p": [3.0]}),
        ]
        monitor = a_monitor(
            slicing_columns=("model_version", "carrier", "absent"),
            source=await world.inference_table(requests),
        )
        schema = await world.analytics.read_schema(monitor, None, None)
        numeric, categorical = ColumnKind.NUMERIC, ColumnKind.CATEGORICAL
        assert set(schema.columns) == {
            Column("carrier", categorical, ColumnPlace.INPUT),
            Column("distance", numeric, ColumnPlace.INPUT),
            Column("flag", categorical, ColumnPlace.INPUT),
            Column("late", numeric, ColumnPlace.INPUT),
            Column("p", numeric, ColumnPlace.INPUT),
        }
        assert schema.slices == (
            Column("model_version", categorical, ColumnPlace.TABLE),
            Column("carrier", categorical, ColumnPlace.INPUT),
        )
        assert schema.prediction == Column("p", numeric, ColumnPlace.OUTPUT)

    async def test_known_columns_keep_their_kind_and_new_ones_are_added(
        self, world: AnalyticsWorld
    ) -> None:
        table = await world.inference_table([a_request(0, SPRING, inputs={"x": [1.0]})])
        monitor = a_monitor(source=table)
        known = await world.analytics.read_schema(monitor, None, None)
        await world.add_requests(table, [a_request(1, SPRING, inputs={"x": ["1"], "y": ["b"]})])
        later = RequestRange(microseconds(NOW) + 1000, microseconds(NOW) + 1000)
        schema = await world.analytics.read_schema(monitor, known, [later])
        assert {(c.name, c.kind) for c in schema.columns} == {
            ("x", ColumnKind.NUMERIC),
            ("p", ColumnKind.NUMERIC),
            ("y", ColumnKind.CATEGORICAL),
        }

    async def test_a_baselines_types_go_before_those_of_json(self, world: AnalyticsWorld) -> None:
        baseline = await world.table({"hour": "String"}, [{"hour": "1"}])
        monitor = a_monitor(
            source=await world.inference_table([a_request(0, SPRING, inputs={"hour": [7]})]),
            baseline=Baseline("main.flights.train", physical=baseline),
        )
        schema = await world.analytics.read_schema(monitor, None, None)
        assert Column("hour", ColumnKind.CATEGORICAL, ColumnPlace.INPUT) in schema.columns

    async def test_times_are_read_in_every_way_that_is_told(self, world: AnalyticsWorld) -> None:
        moment = SPRING + timedelta(hours=30)
        for value in (
            moment.timestamp(),
            moment.timestamp() * 1e3,
            moment.timestamp() * 1e6,
            moment.timestamp() * 1e9,
            moment.isoformat(),
            "2013-04-02T08:00:00+02:00",
        ):
            table = await world.inference_table([a_request(0, None, inputs={"at": [value]})])
            monitor = a_monitor(source=table)
            schema = await world.analytics.read_schema(monitor, None, None)
            touches = await world.analytics.touched(monitor, schema, None)
            assert [(t.start_us, t.latest_us) for t in touches] == [
                (FIRST + DAY_US, microseconds(moment))
            ], value

    async def test_rows_without_a_time_are_in_no_window(self, world: AnalyticsWorld) -> None:
        table = await world.inference_table(
            [
                a_request(0, SPRING, inputs={"x": [1.0]}),
                a_request(1, None, inputs={"x": [1.0], "at": [None]}),
                a_request(2, None, inputs={"x": [1.0]}),
            ]
        )
        monitor = a_monitor(source=table)
        schema = await world.analytics.read_schema(monitor, None, None)
        touches = await world.analytics.touched(monitor, schema, None)
        assert [touch.row_count for touch in touches] == [1]

    async def test_without_a_timestamp_column_the_requests_time_counts(
        self, world: AnalyticsWorld
    ) -> None:
        table = await world.inference_table([a_request(5, None, inputs={"x": [1.0]})])
        monitor = a_monitor(inference(timestamp=""), source=table)
        schema = await world.analytics.read_schema(monitor, None, None)
        (touch,) = await world.analytics.touched(monitor, schema, None)
        assert touch.latest_us == microseconds(NOW) + 5000

    async def test_touched_finds_the_windows_of_a_batch_of_requests(
        self, world: AnalyticsWorld
    ) -> None:
        requests = [a_request(i, SPRING + DAY * (i // 2)) for i in range(6)]
        monitor = a_monitor(source=await world.inference_table(requests))
        schema = await world.analytics.read_schema(monitor, None, None)
        begin = microseconds(NOW)
        batch = RowBatch(
            RequestRange(begin + 1000, begin + 9000),
            (requests[1].tessera_request_id, requests[3].tessera_request_id),
        )
        touches = await world.analytics.touched(monitor, schema, batch)
        assert touches == [
            Touch(FIRST, 1, RequestRange(begin + 1000, begin + 1000), FIRST),
            Touch(FIRST + DAY_US, 2, RequestRange(begin + 2000, begin + 3000), FIRST + DAY_US),
        ]
        assert await world.analytics.touched(
            monitor, schema, RowBatch(RequestRange(begin + 4000, begin + 9000))
        ) == [
            Touch(
                FIRST + 2 * DAY_US, 2, RequestRange(begin + 4000, begin + 5000), FIRST + 2 * DAY_US
            )
        ]

    async def test_count_rows_counts_what_there_is_now(self, world: AnalyticsWorld) -> None:
        table = await world.inference_table([a_request(i, SPRING) for i in range(3)])
        monitor = a_monitor(source=table)
        schema = await world.analytics.read_schema(monitor, None, None)
        windows = [
            WindowRecord(FIRST, FIRST + DAY_US),
            WindowRecord(FIRST + DAY_US, FIRST + 2 * DAY_US),
        ]
        assert await world.analytics.count_rows(monitor, schema, windows) == {FIRST: 3}
        mirror = a_request(5, SPRING)
        mirror = replace(
            mirror, tessera_request_id=mirror.tessera_request_id.ljust(36, "0") + ".s0"
        )
        more = [a_request(3, SPRING), a_request(4, SPRING, status_code=5), mirror]
        await world.add_requests(table, more)
        assert await world.analytics.count_rows(monitor, schema, windows) == {FIRST: 4}
        assert await world.analytics.count_rows(monitor, schema, []) == {}

    async def test_windows_of_labels(self, world: AnalyticsWorld) -> None:
        requests = [a_request(i, SPRING + DAY * i, client_request_id=f"c{i}") for i in range(4)]
        monitor = a_monitor(source=await world.inference_table(requests))
        schema = await world.analytics.read_schema(monitor, None, None)
        found = await world.analytics.windows_of_labels(
            monitor,
            schema,
            [
                Label("endpoint", requests[3].tessera_request_id, "", 1.0, NOW),
                Label("endpoint", "", "c1", 0.0, NOW),
                Label("endpoint", "", "unknown", 0.0, NOW),
            ],
        )
        assert found == [FIRST + DAY_US, FIRST + 3 * DAY_US]
        assert await world.analytics.windows_of_labels(monitor, schema, []) == []

    async def test_a_baseline_needs_watched_columns(self, world: AnalyticsWorld) -> None:
        table = await world.table({"other": "Date"}, [])
        monitor = await world.metric_tables(
            a_monitor(baseline=Baseline("main.flights.train", physical=table))
        )
        with pytest.raises(TableNotReadable):
            await world.analytics.compute_baseline(monitor, NOW)

    async def test_an_unknown_table_is_not_readable(self, world: AnalyticsWorld) -> None:
        table = await world.inference_table([])
        with pytest.raises(TableNotReadable):
            await world.analytics.table_columns(replace(table, table=unique_name("absent")))
        assert "inputs" in await world.analytics.table_columns(table)


class TestMemory(AnalyticsContract, InMemory):
    pass


class TestClickHouse(AnalyticsContract, InClickHouse):
    pass
