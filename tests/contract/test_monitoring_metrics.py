"""One body over the analytics port, in memory and in ClickHouse: what is computed of windows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.monitoring.domain.monitor import (
    Baseline,
    ProblemType,
    SnapshotProfile,
    TimeSeriesProfile,
)
from services.monitoring.ports import Label, MetricQuery, MetricRow, WindowJob
from tests.contract.analytics_worlds import FIRST, InClickHouse, InMemory, computed, flights, jobs
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

PRESENCE = ("non_null_columns_delta.added", "non_null_columns_delta.missing")


class MetricsContract:
    async def test_profile_of_a_window(self, world: AnalyticsWorld) -> None:
        rows = [1.0, 2.0, 2.0, 0.0, None, float("nan")]
        words = ["a", "bb", None, "bb", "ccc", ""]
        requests = [
            a_request(i, SPRING, inputs={"x": [x], "w": [w]})
            for i, (x, w) in enumerate(zip(rows, words, strict=True))
        ]
        monitor = await world.metric_tables(
            a_monitor(columns=("x", "w"), source=await world.inference_table(requests))
        )
        found = {(row.column, row.metric): row.value for row in await computed(world, monitor)}
        assert found == pytest.approx(
            {
                ("x", "count"): 5,
                ("x", "num_nulls"): 1,
                ("x", "num_nan"): 1,
                ("x", "num_zeros"): 1,
                ("x", "distinct_count"): 3,
                ("x", "avg"): 1.25,
                ("x", "min"): 0,
                ("x", "max"): 2,
                ("x", "stddev"): 0.9574271077563381,
                ("x", "median"): 1.5,
                ("x", "percent_null"): 100 / 6,
                ("x", "percent_nan"): 100 / 6,
                ("x", "percent_zeros"): 100 / 6,
                ("x", "percent_distinct"): 50,
                ("w", "count"): 5,
                ("w", "num_nulls"): 1,
                ("w", "distinct_count"): 4,
                ("w", "min_length"): 0,
                ("w", "max_length"): 3,
                ("w", "avg_length"): 8 / 5,
                ("w", "percent_null"): 100 / 6,
                ("w", "percent_distinct"): 400 / 6,
                (":table", "row_count"): 6,
                (":table", "label_count"): 0,
                (":table", "true_positives"): 0,
                (":table", "false_positives"): 0,
                (":table", "true_negatives"): 0,
                (":table", "false_negatives"): 0,
            }
        )

    async def test_drift_from_the_baseline_and_from_the_window_before(
        self, world: AnalyticsWorld
    ) -> None:
        baseline = await world.table(
            {"distance": "Float64", "carrier": "Nullable(String)"},
            [{"distance": 100.0 * (i % 12), "carrier": "AA" if i % 3 else "B6"} for i in range(60)],
        )
        monitor = await world.metric_tables(
            a_monitor(
                source=await world.inference_table(flights(200)),
                baseline=Baseline("main.flights.train", physical=baseline),
                slicing_columns=("model_version", "carrier"),
            )
        )
        rows = await computed(world, monitor)
        kinds = {(r.column, r.drift_type, r.start_us) for r in rows if r.metric == "js_distance"}
        assert kinds == {
            (column, "BASELINE", start)
            for column in ("distance", "carrier")
            for start in (FIRST, FIRST + DAY_US)
        } | {(column, "CONSECUTIVE", FIRST + DAY_US) for column in ("distance", "carrier", "p")}
        values = await world.analytics.values(
            monitor, [FIRST], ["population_stability_index", "row_count"]
        )
        drifted = values[FIRST]["population_stability_index"]
        assert drifted.keys() == {"distance", "carrier"}
        assert all(value > 0 for value in drifted.values())
        assert values[FIRST]["row_count"] == {":table": 100}

    async def test_columns_that_fall_silent_or_begin_to_speak_are_counted(
        self, world: AnalyticsWorld
    ) -> None:
        spoken: list[dict[str, list[Any]]] = [
            {"x": [1.0], "y": [2.0], "z": [None]},
            {"x": [None], "y": [3.0], "z": [4.0]},
            {"x": [None], "y": [None], "z": [4.0]},
        ]
        requests = [
            a_request(day, SPRING + DAY * day, inputs=inputs) for day, inputs in enumerate(spoken)
        ]
        types = {"x": "Nullable(Float64)", "z": "Nullable(Float64)"}
        baseline = await world.table(types, [{"x": 1.0, "z": None}, {"x": 2.0, "z": None}])
        monitor = await world.metric_tables(
            a_monitor(
                columns=("x", "y", "z"),
                source=await world.inference_table(requests),
                baseline=Baseline("main.flights.train", physical=baseline),
            )
        )
        rows = await computed(world, monitor)
        found = {
            (row.drift_type, row.start_us - FIRST): [] for row in rows if row.metric in PRESENCE
        }
        for metric in PRESENCE:
            for row in rows:
                if row.metric == metric:
                    assert row.column == ":table"
                    found[row.drift_type, row.start_us - FIRST].append(row.value)
        assert found == {
            ("CONSECUTIVE", DAY_US): [1, 1],
            ("CONSECUTIVE", 2 * DAY_US): [0, 1],
            ("BASELINE", 0): [0, 0],
            ("BASELINE", DAY_US): [1, 1],
            ("BASELINE", 2 * DAY_US): [1, 1],
        }

    async def test_slices_are_profiled_by_themselves(self, world: AnalyticsWorld) -> None:
        monitor = await world.metric_tables(
            a_monitor(
                source=await world.inference_table(flights(60)),
                columns=("distance",),
                slicing_columns=("model_version", "carrier"),
            )
        )
        await computed(world, monitor)
        for key, values in (("model_version", {"1", "2"}), ("carrier", {"", "AA", "UA"})):
            rows = await world.analytics.list_metrics(
                monitor, MetricQuery(("row_count",), slice_key=key)
            )
            assert {row.slice_value for row in rows} == values
            assert sum(row.value for row in rows) == 54

    async def test_quality_counts_only_labelled_rows(self, world: AnalyticsWorld) -> None:
        predictions = [0.9, 0.8, 0.3, 0.6, 0.1, None]
        requests = [
            a_request(i, SPRING, p, client_request_id=f"c{i}") for i, p in enumerate(predictions)
        ]
        monitor = await world.metric_tables(a_monitor(source=await world.inference_table(requests)))
        labels = [1.0, 0.0, 1.0, 1.0]
        await world.analytics.write_labels(
            [
                Label("endpoint", requests[i].tessera_request_id, "", y, NOW)
                if i % 2
                else Label("endpoint", "", f"c{i}", y, NOW)
                for i, y in enumerate(labels)
            ]
            + [Label("another", requests[4].tessera_request_id, "", 1.0, NOW)]
            + [Label("endpoint", requests[5].tessera_request_id, "", 1.0, NOW)]
        )
        rows = [r for r in await computed(world, monitor) if r.column == ":table"]
        assert {row.metric: row.value for row in rows} == pytest.approx(
            {
                "row_count": 6,
                "label_count": 4,
                "true_positives": 2,
                "false_positives": 1,
                "true_negatives": 0,
                "false_negatives": 1,
                "accuracy": 0.5,
                "precision": 2 / 3,
                "recall": 2 / 3,
                "f1_score": 2 / 3,
                "roc_auc": 1 / 3,
                "log_loss": 0.8573992140459634,
            }
        )

    async def test_the_label_observed_last_counts_whenever_it_arrives(
        self, world: AnalyticsWorld
    ) -> None:
        requests = [a_request(0, SPRING, 3.0), a_request(1, SPRING, 5.0)]
        monitor = await world.metric_tables(
            a_monitor(
                inference(ProblemType.REGRESSION), source=await world.inference_table(requests)
            )
        )
        ids = [request.tessera_request_id for request in requests]
        await world.analytics.write_labels(
            [
                Label("endpoint", ids[0], "", 1.0, NOW + timedelta(seconds=1)),
                Label("endpoint", ids[1], "", 9.0, NOW),
            ]
        )
        await world.analytics.write_labels(
            [
                Label("endpoint", ids[0], "", 100.0, NOW),
                Label("endpoint", ids[1], "", 5.0, NOW + timedelta(seconds=1)),
            ]
        )
        rows = await computed(world, monitor)
        quality = {r.metric: r.value for r in rows if r.column == ":table"}
        assert quality == pytest.approx(
            {
                "row_count": 2,
                "label_count": 2,
                "mean_squared_error": 2,
                "root_mean_squared_error": 2**0.5,
                "mean_absolute_error": 1,
                "mean_absolute_percentage_error": 1,
                "r2_score": 0.5,
            }
        )

    async def test_a_label_does_not_judge_the_rows_of_a_batch(self, world: AnalyticsWorld) -> None:
        request = a_request(
            0,
            None,
            inputs={"x": [1.0, 2.0], "at": [FIRST, FIRST]},
            outputs={"p": [0.1, 0.9]},
        )
        monitor = await world.metric_tables(
            a_monitor(source=await world.inference_table([request]))
        )
        await world.analytics.write_labels(
            [Label("endpoint", request.tessera_request_id, "", 1.0, NOW)]
        )
        rows = await computed(world, monitor)
        found = {r.metric: r.value for r in rows if r.column == ":table"}
        assert (found["row_count"], found["label_count"]) == (2, 0)

    async def test_a_greater_revision_replaces_a_smaller_one(self, world: AnalyticsWorld) -> None:
        table = await world.inference_table(flights(30))
        monitor = await world.metric_tables(a_monitor(source=table))
        before = await computed(world, monitor)
        assert await computed(world, monitor) == before
        await world.add_requests(table, flights(10, start=1000))
        after = await computed(world, monitor, revision=2)
        assert [row.metric for row in after] == [row.metric for row in before]
        counts = [row.value for row in after if row.metric == "row_count"]
        assert sum(counts) == 27 + 9

    async def test_quality_alone_leaves_the_profile(self, world: AnalyticsWorld) -> None:
        requests = flights(30)
        monitor = await world.metric_tables(a_monitor(source=await world.inference_table(requests)))
        before = await computed(world, monitor)
        await world.analytics.write_labels(
            [Label("endpoint", r.tessera_request_id, "", 1.0, NOW) for r in requests]
        )
        schema = await world.analytics.read_schema(monitor, None, None)
        touches = await world.analytics.touched(monitor, schema, None)
        results = await world.analytics.compute_quality(
            monitor, schema, jobs(monitor, touches, 2), NOW
        )
        assert [(r.row_count, r.label_count) for r in results] == [(15, 15), (12, 12)]
        after = await world.analytics.list_metrics(monitor, MetricQuery(limit=10_000))
        assert [r for r in after if r.column != ":table"] == [
            r for r in before if r.column != ":table"
        ]
        assert {r.value for r in after if r.metric == "label_count"} == {15, 12}

    async def test_metrics_are_listed_in_order_page_by_page(self, world: AnalyticsWorld) -> None:
        monitor = await world.metric_tables(
            a_monitor(source=await world.inference_table(flights(40)), slicing_columns=("carrier",))
        )
        whole = await computed(world, monitor)
        assert whole == sorted(whole)
        paged: list[MetricRow] = []
        while True:
            after = paged[-1] if paged else None
            page = await world.analytics.list_metrics(monitor, MetricQuery(after=after, limit=7))
            paged += page
            if len(page) < 7:
                break
        assert paged == whole
        query = MetricQuery(
            ("avg", "js_distance"),
            ("distance",),
            start_us=FIRST + DAY_US,
            end_us=FIRST + 2 * DAY_US,
        )
        chosen = await world.analytics.list_metrics(monitor, query)
        assert [(row.metric, row.drift_type) for row in chosen] == [
            ("avg", ""),
            ("js_distance", "CONSECUTIVE"),
        ]
        assert await world.analytics.list_metrics(monitor, MetricQuery(("no_such_metric",))) == []

    async def test_a_table_in_time(self, world: AnalyticsWorld) -> None:
        rows: list[dict[str, Any]] = [
            {"at": SPRING + timedelta(hours=12 * i), "delay": float(i), "origin": "JFK"}
            for i in range(4)
        ]
        table = await world.table(
            {"at": "DateTime64(6, 'UTC')", "delay": "Float64", "origin": "LowCardinality(String)"},
            rows,
        )
        monitor = await world.metric_tables(
            a_monitor(TimeSeriesProfile("at", DAY), source=table, slicing_columns=("origin",))
        )
        found = await computed(world, monitor)
        assert [(r.start_us, r.value) for r in found if r.metric == "avg"] == [
            (FIRST, 0.5),
            (FIRST + DAY_US, 2.5),
        ]
        assert [r.value for r in found if r.metric == "avg_delta"] == [2.0]

    async def test_a_snapshot_is_all_rows(self, world: AnalyticsWorld) -> None:
        table = await world.table({"x": "Int64"}, [{"x": i} for i in range(5)])
        monitor = await world.metric_tables(a_monitor(SnapshotProfile(), source=table))
        schema = await world.analytics.read_schema(monitor, None, None)
        results = await world.analytics.compute(
            monitor, schema, [WindowJob(FIRST, FIRST, 1)], None, NOW
        )
        assert [r.row_count for r in results] == [5]
        second = WindowJob(FIRST + 7, FIRST + 7, 1, before_us=FIRST)
        await world.analytics.compute(monitor, schema, [second], None, NOW)
        values = await world.analytics.values(monitor, [FIRST + 7], ["avg", "wasserstein_distance"])
        assert values == {FIRST + 7: {"avg": {"x": 2.0}, "wasserstein_distance": {"x": 0.0}}}


class TestMemory(MetricsContract, InMemory):
    pass


class TestClickHouse(MetricsContract, InClickHouse):
    pass
