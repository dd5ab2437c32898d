"""The ClickHouse HTTP door, spoken to by clickhouse-connect and by hand, as a real server is."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

from devstack import Stack
from devstack.clickhouse.__main__ import THREADS
from tests.helpers import eventually, unique_name
from tests.integration.devstack.clients import clickhouse_arguments, clickhouse_client


@pytest.fixture(scope="module")
async def client(stack: Stack) -> AsyncIterator[Any]:
    async with clickhouse_client(stack, autogenerate_session_id=False) as client:
        yield client


@pytest.fixture(scope="module")
async def database(client: Any) -> AsyncIterator[str]:
    name = unique_name("http")
    await client.command(f"CREATE DATABASE {name}")
    yield name
    await client.command(f"DROP DATABASE {name}")


@pytest.fixture
async def table(client: Any, database: str) -> str:
    name = f"{database}.{unique_name()}"
    await client.command(f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    return name


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    environment = stack.environment
    headers = {
        "X-ClickHouse-User": environment["TESSERA_CLICKHOUSE_USER"],
        "X-ClickHouse-Key": environment["TESSERA_CLICKHOUSE_PASSWORD"],
    }
    async with aiohttp.ClientSession(
        environment["TESSERA_CLICKHOUSE_URL"], headers=headers
    ) as session:
        yield session


async def count(client: Any, table: str) -> int:
    return int(await client.command(f"SELECT count() FROM {table}"))


async def test_every_common_type_comes_back_as_it_went(client: Any, database: str) -> None:
    import datetime
    import decimal
    import uuid

    name = f"{database}.types"
    await client.command(
        f"CREATE TABLE {name} (i Int8, u UInt64, f Float32, s String, n Nullable(Int32), "
        "l LowCardinality(String), a Array(Array(Float64)), m Map(String, UInt8), "
        "t Tuple(x Int32, y String), d Date, w DateTime64(6, 'UTC'), g UUID, c Decimal(18, 4), "
        "b Bool, e Enum8('one' = 1, 'two' = 2)) ENGINE = MergeTree ORDER BY u"
    )
    moment = datetime.datetime(2013, 4, 1, 12, 30, 15, 123456, tzinfo=datetime.UTC)
    row = [
        *(-1, 2**64 - 1, 0.5, "it's \\ a\ttab\n\x00", None, "low", [[1.0], []], {"k": 7}),
        *({"x": 1, "y": "z"}, moment.date(), moment, uuid.uuid4(), decimal.Decimal("1.2345")),
        *(True, "two"),
    ]
    await client.insert(name, [row])
    (back,) = (await client.query(f"SELECT * FROM {name}", tz_mode="aware")).result_rows
    assert list(back) == row


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", "br", False])
async def test_inserts_and_answers_are_compressed_as_asked(
    stack: Stack, table: str, compression: str | bool
) -> None:
    async with clickhouse_client(stack, compress=compression) as client:
        rows = [[number, "x" * 100] for number in range(5000)]
        summary = await client.insert(table, rows, column_names=["a", "b"])
        assert summary.written_rows == 5000
        back = await client.query(f"SELECT a, b FROM {table} ORDER BY a")
        assert back.result_rows == [tuple(row) for row in rows]


async def test_arrow_goes_in_and_out(client: Any, table: str) -> None:
    sent = pa.table({"a": pa.array([1, 2, 3], pa.uint64()), "b": ["x", "y", "z"]})
    await client.insert_arrow(table, sent)
    back = await client.query_arrow(f"SELECT a, b FROM {table} ORDER BY a")
    assert back.to_pydict() == sent.to_pydict()


async def test_a_large_insert_is_streamed_and_a_large_answer_too(client: Any, table: str) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for start in range(0, 200_000, 1000):
            block = [{"a": number, "b": "y" * 60} for number in range(start, start + 1000)]
            yield "\n".join(map(json.dumps, block)).encode() + b"\n"

    await client.raw_insert(table, ["a", "b"], lines(), fmt="JSONEachRow")
    assert await count(client, table) == 200_000
    total = 0
    async with await client.query_row_block_stream(f"SELECT a, b FROM {table}") as blocks:
        async for block in blocks:
            total += sum(a for a, _ in block)
    assert total == sum(range(200_000))


async def test_parameters_are_bound_by_the_server(client: Any) -> None:
    nasty = 'it\'s \\ "quoted"\n\ttab {x:String} %(y)s; --'
    answer = await client.query(
        "SELECT {s:String}, {a:Array(String)}, {n:Nullable(Int8)}, {d:DateTime}",
        parameters={"s": nasty, "a": [nasty, ""], "n": None, "d": "2013-04-01 00:00:00"},
    )
    assert answer.result_rows[0][:3] == (nasty, [nasty, ""], None)


async def test_only_its_own_memory_counts_against_its_bound(client: Any) -> None:
    """In a container the control group holds the whole stack, many times the engine's bound."""
    found = await client.query(
        "SELECT value FROM system.server_settings WHERE name = 'memory_worker_use_cgroup'"
    )
    assert [tuple(row) for row in found.result_rows] == [("0",)]


async def test_settings_hold_for_their_request_only(client: Any) -> None:
    query = "SELECT getSetting('max_threads'), getSetting('max_block_size')"
    usual = (await client.query(query)).result_rows
    changed = await client.query(query, settings={"max_threads": 7, "max_block_size": 1000})
    assert changed.result_rows == [(7, 1000)]
    for _ in range(8):  # whichever connection answers
        assert (await client.query(query)).result_rows == usual


async def test_what_a_statement_sets_is_forgotten_unless_its_session_is_named(
    stack: Stack, client: Any
) -> None:
    usual = await client.command("SELECT getSetting('max_block_size')")
    for _ in range(8):
        await client.command("SET max_block_size = 1234")
    for _ in range(8):
        assert await client.command("SELECT getSetting('max_block_size')") == usual
    async with clickhouse_client(stack, session_id=unique_name("session")) as named:
        await named.command("CREATE TEMPORARY TABLE kept (n UInt8)")
        await named.insert("kept", [[1], [2]], column_names=["n"])
        assert await named.command("SELECT sum(n) FROM kept") == 3
    with pytest.raises(DatabaseError, match="kept"):
        await client.command("SELECT sum(n) FROM kept")


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [
        ("SELECT nothing_of_that_name", 47, "UNKNOWN_IDENTIFIER"),
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT * FROM no_such_table", 60, "UNKNOWN_TABLE"),
        ("SELECT * FROM no_such_database.t", 81, "UNKNOWN_DATABASE"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR"),
        ("INSERT INTO no_such_table VALUES (1)", 60, "UNKNOWN_TABLE"),
        ("SELECT 1 FORMAT DataFrame", 73, "UNKNOWN_FORMAT"),
    ],
)
async def test_errors_carry_code_and_name(client: Any, query: str, code: int, name: str) -> None:
    with pytest.raises(DatabaseError) as failure:
        await client.command(query)
    assert (failure.value.code, failure.value.name) == (code, name)


async def test_an_unknown_setting_is_refused_and_does_no_harm(client: Any) -> None:
    with pytest.raises(DatabaseError) as failure:
        await client.query("SELECT 1", settings={"no_such_setting": 1})
    assert failure.value.code == 115
    assert (await client.query("SELECT 1")).result_rows == [(1,)]


async def test_an_error_in_the_middle_of_a_stream_is_an_error(client: Any) -> None:
    query = "SELECT number, throwIf(number = 400000) FROM numbers(1000000)"
    with pytest.raises(StreamFailureError, match="throwIf"):
        async with await client.query_row_block_stream(query) as blocks:
            async for _ in blocks:
                pass


async def test_bad_rows_change_nothing(client: Any, table: str) -> None:
    data = b'{"a": 1, "b": "x"}\n{"a": "not a number", "b": "x"}\n'
    with pytest.raises(DatabaseError):
        await client.raw_insert(table, ["a", "b"], data, fmt="JSONEachRow")
    assert await count(client, table) == 0


async def test_repeated_inserts_with_one_token_count_once(client: Any, database: str) -> None:
    table = f"{database}.{unique_name()}"
    await client.command(
        f"CREATE TABLE {table} (a UInt64) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    for token in ("one", "one", "two"):
        settings = {"insert_deduplication_token": token}
        await client.insert(table, [[1], [2]], column_names=["a"], settings=settings)
    assert await count(client, table) == 4


async def test_many_at_once_are_all_answered(client: Any, table: str) -> None:
    async def insert(number: int) -> None:
        await client.insert(table, [[number, "x"]], column_names=["a", "b"])

    async def ask(number: int) -> int:
        return int(await client.command(f"SELECT {number}"))

    _, answers = await asyncio.gather(
        asyncio.gather(*map(insert, range(40))), asyncio.gather(*map(ask, range(40)))
    )
    assert answers == list(range(40))
    assert await count(client, table) == 40


async def test_tables_may_come_with_the_request(client: Any) -> None:
    external = ExternalData(
        file_name="brought", data=b"1,x\r\n2,y\r\n", fmt="CSV", structure="n UInt8, s String"
    )
    answer = await client.query("SELECT sum(n), max(s) FROM brought", external_data=external)
    assert answer.result_rows == [(3, "y")]
    with pytest.raises(DatabaseError, match="brought"):
        await client.query("SELECT * FROM brought")


async def test_a_synchronous_client_connects_as_well(stack: Stack) -> None:
    def ask() -> tuple[str, object]:
        with clickhouse_connect.get_client(**clickhouse_arguments(stack)) as client:
            return str(client.server_version), client.command("SELECT 40 + 2")

    version, answer = await asyncio.to_thread(ask)
    assert version.startswith("26.")
    assert answer == 42


async def test_ping_needs_no_password_and_queries_do(stack: Stack) -> None:
    url = stack.urls["clickhouse"]
    async with aiohttp.ClientSession() as anybody:
        async with anybody.get(f"{url}/ping") as answer:
            assert (answer.status, await answer.text()) == (200, "Ok.\n")
        async with anybody.post(url, data="SELECT 1") as answer:
            assert answer.status == 403
            assert answer.headers["X-ClickHouse-Exception-Code"] == "516"
            assert "AUTHENTICATION_FAILED" in await answer.text()
        async with anybody.get(url, params={"query": "SELECT 1", "user": "x"}) as answer:
            assert answer.status == 403


async def test_credentials_may_come_as_basic_authentication_or_in_the_url(stack: Stack) -> None:
    environment = stack.environment
    user = environment["TESSERA_CLICKHOUSE_USER"]
    password = environment["TESSERA_CLICKHOUSE_PASSWORD"]
    basic = {"Authorization": aiohttp.encode_basic_auth(user, password)}
    async with aiohttp.ClientSession(environment["TESSERA_CLICKHOUSE_URL"]) as session:
        async with session.post("/", data="SELECT 1", headers=basic) as answer:
            assert await answer.text() == "1\n"
        parameters = {"user": user, "password": password, "query": "SELECT 2"}
        async with session.get("/", params=parameters) as answer:
            assert await answer.text() == "2\n"


async def test_answers_say_what_they_are(http: aiohttp.ClientSession) -> None:
    async with http.post("/", data="SELECT 1 AS one FORMAT JSON") as answer:
        assert answer.headers["X-ClickHouse-Format"] == "JSON"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert json.loads(answer.headers["X-ClickHouse-Summary"])["elapsed_ns"].isdigit()
        assert (await answer.json())["data"] == [{"one": 1}]
    parameters = {"query_id": "mine", "default_format": "CSV"}
    async with http.post("/", params=parameters, data="SELECT 'a', 1") as answer:
        assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
        assert await answer.text() == '"a",1\n'


async def test_get_may_read_but_not_write(http: aiohttp.ClientSession, table: str) -> None:
    async with http.get("/", params={"query": "SELECT 1"}) as answer:
        assert answer.status == 200
    for query in (f"DROP TABLE {table}", f"INSERT INTO {table} VALUES (1, 'x')"):
        async with http.get("/", params={"query": query}) as answer:
            assert answer.headers["X-ClickHouse-Exception-Code"] == "164"


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("lz4", lz4.frame.compress),
        ("zstd", zstd.compress),
    ],
)
async def test_bodies_are_decoded(
    http: aiohttp.ClientSession, client: Any, table: str, encoding: str, encode: Any
) -> None:
    # Two frames in one body, as clients that compress block by block send them.
    body = encode(b'{"a": 1, "b": "x"}\n') + encode(b'{"a": 2, "b": "y"}\n')
    if encoding == "deflate":
        body = encode(b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n')
    parameters = {"query": f"INSERT INTO {table} FORMAT JSONEachRow"}
    headers = {"Content-Encoding": encoding}
    async with http.post("/", params=parameters, data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    assert await count(client, table) == 2


async def test_a_body_in_no_known_encoding_is_refused(http: aiohttp.ClientSession) -> None:
    for encoding, code in (("gzip", "354"), ("snappy", "89")):
        headers = {"Content-Encoding": encoding}
        async with http.post("/", data=b"SELECT 1", headers=headers) as answer:
            assert answer.headers["X-ClickHouse-Exception-Code"] == code


async def test_an_insert_whose_client_goes_away_leaves_the_server_well(
    http: aiohttp.ClientSession, client: Any, table: str
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for number in range(200_000):
            yield b'{"a": %d, "b": "%s"}\n' % (number, b"z" * 100)
        raise ConnectionAbortedError

    parameters = {"query": f"INSERT INTO {table} FORMAT JSONEachRow"}
    with pytest.raises((aiohttp.ClientError, ConnectionAbortedError)):
        await http.post("/", params=parameters, data=endless())
    for _ in range(8):
        assert await client.command("SELECT 1") == 1


ENDLESS = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"


async def running(client: Any, query_id: str) -> int:
    """How many queries with a client's id run."""
    counted = "SELECT count() FROM system.processes WHERE endsWith(query, {mark:String})"
    mark = f"/* query_id: {query_id} */"
    return int((await client.query(counted, {"mark": mark})).result_rows[0][0])


async def until_running(client: Any, query_id: str, count: int) -> None:
    async def reached() -> bool:
        return await running(client, query_id) == count

    await eventually(reached, timeout=30)


@pytest.mark.parametrize("form", ["whole", "streamed"])
async def test_a_query_can_be_killed_by_its_id(
    client: Any, http: aiohttp.ClientSession, form: str
) -> None:
    identifier = unique_name("kill")
    output = "JSON" if form == "whole" else "TSV"

    async def ask() -> tuple[int, str, str]:
        async with http.post(
            "/", params={"query_id": identifier}, data=f"{ENDLESS} FORMAT {output}"
        ) as answer:
            return answer.status, answer.headers["X-ClickHouse-Query-Id"], await answer.text()

    asked = asyncio.create_task(ask())
    await until_running(client, identifier, 1)
    await client.command(f"KILL QUERY WHERE query_id = '{identifier}'")
    status, told, text = await asked
    assert (status, told) == (500, identifier)
    assert "QUERY_WAS_CANCELLED" in text


async def test_a_kill_does_not_wait_behind_what_it_ends(
    client: Any, http: aiohttp.ClientSession
) -> None:
    identifiers = [unique_name("many") for _ in range(THREADS + 2)]

    async def ask(identifier: str) -> int:
        async with http.post("/", params={"query_id": identifier}, data=ENDLESS) as answer:
            return answer.status

    asked = [asyncio.create_task(ask(identifier)) for identifier in identifiers]

    async def killed() -> bool:
        # No other statement would be answered now: every thread of the pool is taken.
        await client.command("KILL QUERY WHERE query LIKE '%sipHash64%' AND query LIKE '%many%'")
        return all(one.done() for one in asked)

    await eventually(killed, timeout=30)
    assert [one.result() for one in asked] == [500] * len(asked)


@pytest.mark.parametrize("output", ["JSON", "TSV"])
async def test_a_query_ends_when_its_client_goes(
    client: Any, http: aiohttp.ClientSession, output: str
) -> None:
    identifier = unique_name("gone")
    sql = f"{ENDLESS} FORMAT {output}"
    asked = asyncio.create_task(http.post("/", params={"query_id": identifier}, data=sql))
    await until_running(client, identifier, 1)
    asked.cancel()
    await until_running(client, identifier, 0)
