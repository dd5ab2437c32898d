"""The ClickHouse client, its migrations and the batch writer against a real engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from devstack import Stack
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.config import ClickHouseConfig, ConfigError
from tessera_kit.store.batch_writer import BatchWriter
from tessera_kit.store.clickhouse import ClickHouse, qualified_name, quote_identifier
from tessera_kit.store.clickhouse_errors import (
    ClickHouseUnavailable,
    QueryRejected,
    QueryTooLarge,
    TableExists,
    TableNotFound,
)
from tessera_kit.store.clickhouse_migrate import MigrationMismatch, migrate_clickhouse
from tests.helpers import unique_name


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[ClickHouse]:
    config = ClickHouseConfig.from_env(stack.environment, database=unique_name("kit"))
    async with ClickHouse(config) as client:
        database = quote_identifier(client.database)
        await client.command(f"CREATE DATABASE {database}", use_database=False)
        yield client
        await client.command(f"DROP DATABASE {database}", use_database=False)


async def make_table(client: ClickHouse, columns: str) -> str:
    table = unique_name("table")
    await client.command(
        f"CREATE TABLE {quote_identifier(table)} ({columns}) ENGINE = MergeTree ORDER BY tuple() "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    return table


async def count(client: ClickHouse, table: str) -> int:
    rows = (await client.query(f"SELECT count() FROM {quote_identifier(table)}")).rows
    return int(rows[0][0])


async def test_values_of_every_kind_come_back_as_they_went(client: ClickHouse) -> None:
    table = await make_table(
        client,
        "n Int64, f Nullable(Float64), s String, b Bool, d Date, t DateTime64(6, 'UTC'), "
        "u UUID, m Decimal(18, 4), a Array(String), k Map(String, Int32)",
    )
    names = ["n", "f", "s", "b", "d", "t", "u", "m", "a", "k"]
    row = [
        *(-(2**63), None, "'; DROP TABLE x; --\\ \u00fc\n\t", True, date(2013, 1, 31)),
        datetime(2013, 7, 4, 12, 30, 1, 123456, tzinfo=UTC),
        UUID("019a0000-0000-7000-8000-000000000001"),
        *(Decimal("1234.5678"), ["x", "'y'"], {"z": 1}),
    ]
    await client.insert(table, [row, row], names)
    result = await client.query(f"SELECT * FROM {quote_identifier(table)}")
    assert result.column_names == tuple(names)
    assert [list(found) for found in result.rows] == [row, row]
    assert result.dicts()[0] == dict(zip(names, row, strict=True))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("String", "' OR 1 = 1 --\\"),
        ("Int64", -5),
        ("Nullable(String)", None),
        ("Array(String)", ["a'b", "\\"]),
        ("DateTime64(6, 'UTC')", datetime(2013, 1, 1, 5, 6, 7, 8, tzinfo=UTC)),
        ("Float64", 0.1),
    ],
)
async def test_parameters_are_values_and_never_sql(
    client: ClickHouse, kind: str, value: object
) -> None:
    name = "value_64" if kind.startswith("DateTime64") else "value"
    result = await client.query(f"SELECT {{{name}:{kind}}} AS v", {name: value})
    assert result.rows[0][0] == value


async def test_a_parameter_without_its_place_is_refused(client: ClickHouse) -> None:
    with pytest.raises(ValueError, match="value"):
        await client.query("SELECT %(value)s", {"value": 1})


@pytest.mark.parametrize("name", ["plain", "with space", "a`b", "a\\", "a.b", "ü'\"", "select"])
async def test_any_name_can_be_quoted(client: ClickHouse, name: str) -> None:
    await client.command(
        f"CREATE TABLE {quote_identifier(name)} ({quote_identifier(name)} Int8) "
        "ENGINE = MergeTree ORDER BY tuple()"
    )
    await client.insert(name, [[7]], [name])
    full = qualified_name(client.database, name)
    result = await client.query(f"SELECT {quote_identifier(name)} FROM {full}")
    assert (result.column_names, list(result.rows[0])) == ((name,), [7])


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_some_names_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        quote_identifier(name)


async def test_a_repeated_insert_of_one_token_counts_once(client: ClickHouse) -> None:
    table = await make_table(client, "n Int64")
    for token in ("one", "one", "two"):
        await client.insert(table, [[1], [2]], ["n"], deduplication_token=token)
    for _ in range(2):
        await client.insert_bytes(
            *(table, ["n"], b'{"n": 3}\n'), format="JSONEachRow", deduplication_token="three"
        )
    assert await count(client, table) == 5


async def test_equal_inserts_without_a_token_all_count(client: ClickHouse) -> None:
    table = await make_table(client, "n Int64")
    for _ in range(3):
        await client.insert(table, [[1]], ["n"])
    assert await count(client, table) == 3


async def test_columns_not_given_take_their_defaults_also_after_the_table_changed(
    client: ClickHouse,
) -> None:
    table = await make_table(client, "n Int64, s String DEFAULT 'x'")
    await client.insert(table, [[1]], ["n"])
    await client.command(f"ALTER TABLE {quote_identifier(table)} ADD COLUMN t String DEFAULT 'y'")
    await client.insert(table, [[2]], ["n"])
    await client.command(f"ALTER TABLE {quote_identifier(table)} MODIFY COLUMN n String")
    await client.insert(table, [[3]], ["n"])
    rows = await client.query(f"SELECT n, s, t FROM {quote_identifier(table)} ORDER BY n")
    assert [tuple(row) for row in rows.rows] == [
        ("1", "x", "y"),
        ("2", "x", "y"),
        ("3", "x", "y"),
    ]


async def test_arrow_goes_in_and_comes_out(client: ClickHouse) -> None:
    table = await make_table(client, "n Int64, s String")
    data = pa.table({"n": range(10_000), "s": [f"row {n}" for n in range(10_000)]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    await client.insert_bytes(table, ["n", "s"], memoryview(sink.getvalue()), format="ArrowStream")
    query = f"SELECT n, s FROM {quote_identifier(table)} ORDER BY n"
    batches = [
        batch async for batch in client.stream_arrow(query, settings={"max_block_size": 1000})
    ]
    assert len(batches) > 1
    assert pa.Table.from_batches(batches).to_pydict() == data.to_pydict()


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELEC 1", QueryRejected),
        ("SELECT nope", QueryRejected),
        ("SELECT * FROM nope", TableNotFound),
        ("SELECT * FROM nope.nope", TableNotFound),
        ("SELECT toInt8('x')", QueryRejected),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", TableExists),
        ("SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", QueryTooLarge),
    ],
)
async def test_errors_have_their_category(
    client: ClickHouse, sql: str, error: type[Exception]
) -> None:
    await client.command("CREATE TABLE t (a Int8) ENGINE = Memory")
    with pytest.raises(error) as caught:
        await client.command(sql, settings={"max_execution_time": 1})
    assert caught.value.metadata["code"].isdigit()  # type: ignore[attr-defined]
    assert "version" not in str(caught.value)


async def test_a_row_that_does_not_fit_is_refused_and_nothing_is_written(
    client: ClickHouse,
) -> None:
    table = await make_table(client, "n Int64, s String")
    for bad in (["x", "y"], [1], [None, "y"], [1, object()]):
        with pytest.raises(QueryRejected):
            await client.insert(table, [[1, "a"], bad], ["n", "s"])
    with pytest.raises(QueryRejected):
        await client.insert(table, [[1]], ["nope"])
    assert await count(client, table) == 0


async def test_no_server_is_unavailable() -> None:
    async with ClickHouse(ClickHouseConfig("http://127.0.0.1:1")) as client:
        with pytest.raises(ClickHouseUnavailable):
            await client.query("SELECT 1")


@pytest.mark.parametrize("url", ["127.0.0.1:8123", "ftp://host", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        ClickHouse(ClickHouseConfig(url))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    name = unique_name("package")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, folder
    sys.modules.pop(name, None)


async def test_migrations_run_once_and_in_order(client: ClickHouse, package: Any) -> None:
    name, folder = package
    (folder / "0001_first.sql").write_text(
        "-- A comment; with a semicolon\n"
        "CREATE TABLE IF NOT EXISTS one (a String DEFAULT 'x;y')\n"
        "ENGINE = MergeTree ORDER BY a;\n\n"
        "INSERT INTO {database:Identifier}.one (a) VALUES ('a;b');\n"
    )
    assert await migrate_clickhouse(client, client.database, name) == 1
    (folder / "0002_second.sql").write_text("ALTER TABLE one ADD COLUMN IF NOT EXISTS b Int8")
    assert await migrate_clickhouse(client, client.database, name) == 1
    assert await migrate_clickhouse(client, client.database, name) == 0
    rows = (await client.query("SELECT a, b FROM one")).rows
    assert [tuple(row) for row in rows] == [("a;b", 0)]


async def test_a_changed_migration_is_refused(client: ClickHouse, package: Any) -> None:
    name, folder = package
    (folder / "0001_first.sql").write_text("SELECT 1")
    await migrate_clickhouse(client, client.database, name)
    (folder / "0001_first.sql").write_text("SELECT 2")
    with pytest.raises(MigrationMismatch, match="0001_first"):
        await migrate_clickhouse(client, client.database, name)


async def test_a_gap_in_the_numbers_is_refused(client: ClickHouse, package: Any) -> None:
    name, folder = package
    (folder / "0002_second.sql").write_text("SELECT 1")
    with pytest.raises(ValueError, match="numbered"):
        await migrate_clickhouse(client, client.database, name)


async def test_a_failed_migration_runs_again(client: ClickHouse, package: Any) -> None:
    name, folder = package
    file = folder / "0001_first.sql"
    file.write_text("CREATE TABLE IF NOT EXISTS one (a Int8) ENGINE = Memory;\nSELEC 1;")
    with pytest.raises(QueryRejected):
        await migrate_clickhouse(client, client.database, name)
    file.write_text("CREATE TABLE IF NOT EXISTS one (a Int8) ENGINE = Memory;\nSELECT 1;")
    assert await migrate_clickhouse(client, client.database, name) == 1


async def test_the_batch_writer_loses_nothing_when_the_server_is_killed(
    local_stack: Stack, client: ClickHouse
) -> None:
    table = unique_name("table")
    await client.command(
        f"CREATE TABLE {quote_identifier(table)} (n Int64) ENGINE = ReplacingMergeTree ORDER BY n"
    )
    quick = RetryPolicy(initial_seconds=0.05, maximum_seconds=0.5, budget_seconds=None)
    async with BatchWriter(
        client, table, ["n"], max_rows=500, max_seconds=0.01, max_pending=5_000, retry=quick
    ) as writer:

        async def produce() -> None:
            for start in range(0, 40_000, 50):
                await writer.put([[n] for n in range(start, start + 50)])

        producing = asyncio.create_task(produce())
        for _ in range(2):
            local_stack.kill("clickhouse")
            await local_stack.wait_healthy("clickhouse")
        await producing
        await writer.flush()
    result = await client.query(
        f"SELECT count(), uniqExact(n) FROM {quote_identifier(table)} FINAL"
    )
    assert tuple(result.rows[0]) == (40_000, 40_000)
