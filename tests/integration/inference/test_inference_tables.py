"""Inference tables in the real database: the same promises as their twin in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from math import isfinite
from typing import Any

import numpy as np
import pytest

from devstack import Stack
from services.inference.adapters.arrow_rows import VALUES_NOT_TYPED
from services.inference.adapters.clickhouse import ClickHousePayloads
from services.inference.adapters.memory import InMemoryPayloads
from services.inference.domain.bodies import Side, StoredBody
from services.inference.domain.canary import Sight
from services.inference.domain.endpoint import InferenceTable
from services.inference.domain.table import COLUMNS, ORDER_BY, PARTITION_BY, VERSION_COLUMN
from services.inference.sink.rows import Row
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.config import ClickHouseConfig
from tessera_kit.ids import new_id
from tessera_kit.store.clickhouse import ClickHouse, qualified_name
from tests.helpers import unique_name

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def make_row(identifier: str = "", *, at: datetime = NOON, **values: Any) -> Row:
    micros = (at - EPOCH) // timedelta(microseconds=1)
    identifier = identifier or new_id()
    columns: dict[str, Any] = {column.name: "" for column in COLUMNS}
    del columns["ingested_at"]
    columns |= {
        "tessera_request_id": identifier,
        "request_date": micros // 86_400_000_000,
        "request_time": micros,
        "response_time": micros,
        "served_entity_id": "delay-1",
        "inputs": '{"x": [1.5], "text": ["quote \\" and \\u00e9"]}',
        "logging_error_codes": [],
        "failed_entity_ids": [],
        "chunk_times_ms": [],
        **dict.fromkeys(("model_version", "config_version", "status_code"), 0),
        **dict.fromkeys(
            ("duration_ms", "queue_duration_ms", "execution_duration_ms", "sampling_fraction"), 0.5
        ),
        **dict.fromkeys(("kafka_partition", "kafka_offset"), 0),
        **values,
    }
    record = ConsumedRecord("t", 0, 0, None, None, None, ())
    return Row(identifier, "flights", micros, micros, record, columns)


class PayloadsContract:
    """What `ports.PayloadStore` and `ports.TableReader` promise."""

    async def test_what_was_written_is_there(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        rows = [make_row() for _ in range(50)]
        ids = [row.request_id for row in rows]
        assert await store.existing(table, ids) == frozenset()
        await store.insert(table, rows[:30], "one")
        assert await store.existing(table, ids) == frozenset(ids[:30])
        assert await store.existing(table, ids[30:]) == frozenset()

    async def test_an_insert_under_one_token_happens_once(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        rows = [make_row() for _ in range(3)]
        for token in ("one", "one", "two"):
            await store.insert(table, rows if token == "one" else [make_row()], token)
        assert (await store.statistics(table, None)).rows == 4

    async def test_a_canary_is_seen_beside_the_others(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        own = {"served_entity_id": "new", "route": "PRIMARY", "config_version": 3}
        other = {**own, "served_entity_id": "old"}
        rows = [
            *(make_row(**own, execution_duration_ms=2.0, sampling_fraction=0.5) for _ in range(4)),
            make_row(**own, status_code=13, execution_duration_ms=2.0, sampling_fraction=1.0),
            make_row(**own, status_code=3, execution_duration_ms=2.0, sampling_fraction=1.0),
            make_row(
                **{**other, "route": "FALLBACK", "failed_entity_ids": ["new"]},
                execution_duration_ms=9.0,
                sampling_fraction=1.0,
            ),
            make_row(**other, execution_duration_ms=9.0, sampling_fraction=1.0),
            make_row(**{**own, "route": "SHADOW"}, execution_duration_ms=99.0, status_code=13),
            make_row(**{**own, "config_version": 2}, execution_duration_ms=99.0),
            make_row(**own, at=NOON - timedelta(minutes=1), execution_duration_ms=99.0),
        ]
        await store.insert(table, rows, "one")
        seen = await store.sight(table, 3, "new", NOON)
        assert (seen.requests, seen.errors) == (11, 2)
        assert (seen.p99_ms, seen.others_p99_ms) == (2.0, 9.0)
        assert await store.sight(table, 4, "new", NOON) == Sight()

    async def test_rows_of_two_months_are_one_insert(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        rows = [make_row(at=NOON), make_row(at=NOON + timedelta(days=30))]
        await store.insert(table, rows, "one")
        await store.insert(table, rows, "one")
        assert (await store.statistics(table, None)).rows == 2

    async def test_strangers_ids_far_apart_are_found(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        await store.insert(table, [make_row() for _ in range(1500)], "many")
        await store.insert(table, [make_row("0"), make_row("z'; DROP")], "two")
        found = await store.existing(table, ["0", "z'; DROP", "zz"])
        assert found == {"0", "z'; DROP"}

    async def test_rows_are_counted(self, store: ClickHousePayloads, table: InferenceTable) -> None:
        empty = await store.statistics(table, None)
        assert (empty.rows, empty.newest_request, empty.by_served_entity) == (0, None, ())
        later = NOON + timedelta(hours=1)
        await store.insert(
            table,
            [
                make_row(model_version=1),
                make_row(model_version=1, at=later),
                make_row(model_version=0, served_entity_id="", status_code=3, at=later),
            ],
            "one",
        )
        counts = await store.statistics(table, None)
        assert (counts.rows, counts.distinct_requests, counts.errors) == (3, 3, 1)
        assert counts.newest_request == later
        found = [
            (one.served_entity, one.model_version, one.rows) for one in counts.by_served_entity
        ]
        assert found == [("", 0, 1), ("delay-1", 1, 2)]
        assert (await store.statistics(table, later)).rows == 2

    async def test_bodies_are_told_by_their_rows(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        pointing = make_row(request="{}", response_object="a/key", logging_error_codes=["CODE"])
        earlier = make_row(at=NOON - timedelta(days=2), request_object="b/key")
        without = make_row(at=NOON - timedelta(days=1))
        await store.insert(table, [pointing, earlier, without], "one")
        day = NOON.date()
        found = await store.body(table, pointing.request_id, Side.RESPONSE)
        assert found == StoredBody(day, "", "a/key", ("CODE",))
        found = await store.body(table, pointing.request_id, Side.REQUEST)
        assert found == StoredBody(day, "{}", "", ("CODE",))
        assert await store.body(table, "unknown", Side.REQUEST) is None
        days = [day - timedelta(days=number) for number in range(4)]
        assert await store.days_with_bodies(table, days) == {day, day - timedelta(days=2)}
        assert await store.days_with_bodies(table, days[1:2]) == frozenset()

    async def test_requests_are_told_by_their_rows(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        mine = {"client_request_id": "mine", "route": "PRIMARY"}
        rows = [
            make_row(**mine, failed_entity_ids=["a", "b"], model_version=3, duration_ms=2.5),
            make_row(**mine),
            make_row(client_request_id="other", route="REFUSED", status_code=3),
        ]
        first, second, refused = (row.request_id for row in rows)
        mirror = make_row(f"{first}.s0", **{**mine, "route": "SHADOW"})
        await store.insert(table, [*rows, mirror], "one")
        found = await store.kept(table, first)
        assert found is not None
        assert (found.request_id, found.requested_at, found.duration_ms) == (first, NOON, 2.5)
        assert (found.failed_entities, found.model_version) == (("a", "b"), 3)
        assert (found.served_entity, found.client_request_id) == ("delay-1", "mine")
        found = await store.kept(table, f"{first}.s0")
        assert found is not None
        assert found.route == "SHADOW"
        assert await store.kept(table, "'; DROP TABLE x") is None
        named = [one.request_id for one in await store.kept_of_client(table, "mine", 10)]
        assert named == [second, first]
        assert len(await store.kept_of_client(table, "mine", 1)) == 1
        assert [one.status_code for one in await store.kept_of_client(table, "other", 9)] == [3]
        nowhere = InferenceTable("a.b.q", "tessera_nowhere", "q")
        assert await store.kept(nowhere, refused) is None
        assert list(await store.kept_of_client(nowhere, "mine", 1)) == []

    async def test_no_table_has_no_bodies(self, store: ClickHousePayloads) -> None:
        nowhere = InferenceTable("a.b.q", "tessera_nowhere", "q")
        assert await store.body(nowhere, "id", Side.REQUEST) is None
        assert await store.days_with_bodies(nowhere, [date(2026, 11, 23)]) == frozenset()


class TestMemory(PayloadsContract):
    @pytest.fixture
    def store(self) -> InMemoryPayloads:
        return InMemoryPayloads()

    @pytest.fixture
    def table(self) -> InferenceTable:
        return InferenceTable("a.b.p", "d", "p")


class TestClickHouse(PayloadsContract):
    @pytest.fixture
    async def client(self, stack: Stack) -> AsyncIterator[ClickHouse]:
        async with ClickHouse(
            ClickHouseConfig.from_env(stack.environment, database="default")
        ) as client:
            yield client

    @pytest.fixture
    def store(self, client: ClickHouse) -> ClickHousePayloads:
        return ClickHousePayloads(client)

    @pytest.fixture
    async def table(self, client: ClickHouse) -> AsyncIterator[InferenceTable]:
        database = unique_name("payloads")
        name = qualified_name(database, "p")
        columns = ", ".join(f"{column.name} {column.data_type}" for column in COLUMNS)
        await client.command(f"CREATE DATABASE {qualified_name(database)}", use_database=False)
        await client.command(
            f"CREATE TABLE {name} ({columns}) ENGINE = ReplacingMergeTree({VERSION_COLUMN}) "
            f"PARTITION BY toYYYYMM({PARTITION_BY}) ORDER BY ({', '.join(ORDER_BY)}) "
            "SETTINGS non_replicated_deduplication_window = 1000",
            use_database=False,
        )
        yield InferenceTable("a.b.p", database, "p")
        await client.command(f"DROP DATABASE {qualified_name(database)}", use_database=False)

    async def test_times_and_texts_are_kept(
        self, store: ClickHousePayloads, table: InferenceTable, client: ClickHouse
    ) -> None:
        at = NOON + timedelta(microseconds=123_456)
        before = datetime.now(UTC)
        await store.insert(table, [make_row(at=at)], "one")
        result = await client.query(
            "SELECT request_date, request_time, ingested_at, "
            "JSONExtractFloat(inputs, 'x', 1) AS x, JSONExtractString(inputs, 'text', 1) AS text "
            f"FROM {qualified_name(table.database, table.table)}"
        )
        (row,) = result.dicts()
        assert (row["request_date"], row["request_time"]) == (at.date(), at)
        assert (row["x"], row["text"]) == (1.5, 'quote " and é')
        assert before <= row["ingested_at"] <= datetime.now(UTC)

    async def test_typed_values_are_kept_where_the_table_has_their_columns(
        self, store: ClickHousePayloads, table: InferenceTable, client: ClickHouse
    ) -> None:
        name = qualified_name(table.database, table.table)
        await client.command(
            f"ALTER TABLE {name} ADD COLUMN input_x Array(Array(Nullable(Float32))), "
            "ADD COLUMN input_carrier Array(Nullable(String))"
        )
        typed = {
            "input_x": np.array([[1.5, np.nan], [2, 3]], np.float32),
            "input_carrier": ["UA", "é"],
            "input_new": [1],
        }
        await store.insert(table, [make_row(**typed)], "one")
        (row,) = (await client.query(f"SELECT input_x, input_carrier FROM {name}")).dicts()
        assert row == {"input_x": [[1.5, None], [2.0, 3.0]], "input_carrier": ["UA", "é"]}

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("Bool", np.array([[True, False]])),
            ("Float32", np.array([[0.1, np.nan], [np.inf, -1e30]], np.float32)),
            ("Float64", np.array([[0.1], [1e300]])),
            ("Int8", np.array([[-128, 127]], np.int8)),
            ("Int64", np.array([[-(2**63), 2**63 - 1]])),
            ("UInt16", np.array([[0, 65535]], np.uint16)),
            ("UInt64", np.array([[0, 2**64 - 1]], np.uint64)),
            ("String", [["a", "\0é"], [], [""]]),
        ],
    )
    async def test_typed_values_of_every_kind(
        self,
        store: ClickHousePayloads,
        table: InferenceTable,
        client: ClickHouse,
        kind: str,
        values: Any,
    ) -> None:
        name = qualified_name(table.database, table.table)
        column = f"ADD COLUMN input_x Array(Array(Nullable({kind})))"
        await client.command(f"ALTER TABLE {name} {column}")
        await store.insert(table, [make_row(input_x=values), make_row()], "one")
        result = await client.query(f"SELECT input_x FROM {name} ORDER BY tessera_request_id")
        plain = values if isinstance(values, list) else values.tolist()
        wanted = [
            [None if isinstance(one, float) and not isfinite(one) else one for one in row]
            for row in plain
        ]
        assert [row[0] for row in result.rows] == [wanted, []]

    async def test_a_column_of_somebody_elses_keeps_its_default(
        self, table: InferenceTable, client: ClickHouse
    ) -> None:
        name = qualified_name(table.database, table.table)
        for column in (
            "labels Array(Nullable(String)) DEFAULT ['new']",
            "note String DEFAULT 'no'",
        ):
            await client.command(f"ALTER TABLE {name} ADD COLUMN {column}")
            store = ClickHousePayloads(client)
            await store.insert(table, [make_row()], column)
        result = await client.query(f"SELECT labels, note, logging_error_codes FROM {name}")
        assert [list(row) for row in result.rows] == [[["new"], "no", []]] * 2

    async def test_a_table_that_lost_a_column_is_asked_for_its_columns_again(
        self, store: ClickHousePayloads, table: InferenceTable, client: ClickHouse
    ) -> None:
        """The columns are known for a while; a table that lost one is asked at once."""
        name = qualified_name(table.database, table.table)
        await client.command(f"ALTER TABLE {name} ADD COLUMN input_x Array(Nullable(Float32))")
        await store.insert(table, [make_row(input_x=np.array([1.0]))], "one")
        await client.command(f"ALTER TABLE {name} DROP COLUMN input_x")
        await store.insert(table, [make_row(input_x=np.array([2.0]))], "two")
        assert (await store.statistics(table, None)).rows == 2

    async def test_values_that_do_not_fit_cost_nobody_a_row(
        self, store: ClickHousePayloads, table: InferenceTable, client: ClickHouse
    ) -> None:
        name = qualified_name(table.database, table.table)
        await client.command(f"ALTER TABLE {name} ADD COLUMN input_x Array(Nullable(Float32))")
        told = [np.array([1.0]), ["text"], [[1]], [2, 3], np.array([[4.0]]), [5], [{}]]
        rows = [make_row(input_x=values) for values in told]
        await store.insert(table, rows, "one")
        found = await client.query(
            f"SELECT tessera_request_id, input_x, logging_error_codes FROM {name}"
        )
        kept = {identifier: (values, codes) for identifier, values, codes in found.rows}
        assert len(found.rows) == len(kept) == len(rows)
        apart = ([], [VALUES_NOT_TYPED])
        assert [kept[row.request_id] for row in rows] == [
            ([1.0], []),
            apart,
            apart,
            ([2.0, 3.0], []),
            apart,
            ([5.0], []),
            apart,
        ]

    async def test_lag_is_from_the_response_to_the_row(
        self, store: ClickHousePayloads, table: InferenceTable
    ) -> None:
        ago = datetime.now(UTC) - timedelta(seconds=100)
        await store.insert(table, [make_row(at=ago)], "one")
        counts = await store.statistics(table, None)
        for lag in (counts.lag_p50, counts.lag_p99, counts.lag_max):
            assert timedelta(seconds=100) <= lag < timedelta(seconds=200)
