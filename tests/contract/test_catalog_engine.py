"""One body over both table engines of the catalog: what the `TableEngine` port promises."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from devstack import Stack
from services.catalog.adapters.clickhouse import ClickHouseTableEngine, EngineSettings
from services.catalog.adapters.memory import InMemoryTableEngine
from services.catalog.domain.arrow_rows import RowFitter, block_bytes
from services.catalog.domain.details import Column, PhysicalTable, TableLayout
from services.catalog.domain.rows import Operator, OrderTerm, Predicate, RowQuery, check_query
from services.catalog.domain.tables import TableDefinition, check_columns, check_layout
from services.catalog.errors import FilesUnreadable, StorageUnavailable
from services.catalog.ports import ExternalSource, ManagedSource, TableEngine
from tessera_kit.config import ClickHouseConfig, S3Config, Secret
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.objects import ObjectStore
from tessera_kit.store.s3 import S3ObjectStore
from tests.helpers import eventually, unique_name

COLUMNS = check_columns(
    [
        Column("id", "Int64"),
        Column("at", "DateTime64(3, 'UTC')"),
        Column("note", "Nullable(String)"),
    ]
)
NOON = dt.datetime(2013, 1, 1, 12, tzinfo=dt.UTC)


@dataclass
class Bench:
    """An engine, and a way to put Parquet where it reads."""

    engine: TableEngine
    objects: ObjectStore
    database: str = field(default_factory=lambda: unique_name("tessera"))
    clickhouse: ClickHouse | None = None

    async def put_parquet(self, location: str, key: str, rows: pa.Table) -> None:
        if isinstance(self.engine, InMemoryTableEngine):
            columns = tuple(Column(name, "Nullable(Int64)") for name in rows.schema.names)
            self.engine.files[location] = (columns, rows)
            return
        sink = io.BytesIO()
        pq.write_table(rows, sink)
        await self.objects.put(key, sink.getvalue())

    async def table(self, layout: TableLayout = TableLayout()) -> ManagedSource:  # noqa: B008
        physical = PhysicalTable(self.database, unique_name())
        checked = check_layout(layout, COLUMNS)
        await self.engine.create(physical, TableDefinition(COLUMNS, checked, "it's \\ a comment"))
        return ManagedSource(physical, COLUMNS, bool(layout.replacing_version_column))

    async def insert(self, source: ManagedSource, start: int, stop: int, token: str) -> None:
        rows = pa.table(
            {
                "id": pa.array(range(start, stop), pa.int64()),
                "at": pa.array(
                    [NOON + dt.timedelta(days=i) for i in range(start, stop)],
                    pa.timestamp("ms", "UTC"),
                ),
                "note": pa.array([f"n{i}" if i % 2 else None for i in range(start, stop)]),
            }
        )
        await self.engine.insert(source.physical, rows.column_names, block_bytes(rows), token=token)

    async def read(self, source: ManagedSource | ExternalSource, query: RowQuery) -> pa.Table:
        pieces = self.engine.read(source, check_query(query, source.columns))
        return pa.ipc.open_stream(b"".join([piece async for piece in pieces])).read_all()

    async def ids(
        self, source: ManagedSource | ExternalSource, *predicates: Predicate
    ) -> list[int]:
        query = RowQuery(("id",), predicates, (OrderTerm("id"),))
        found: list[int] = (await self.read(source, query))["id"].to_pylist()
        checked = check_query(query, source.columns)
        assert await self.engine.count(source, checked) == len(found)
        return found


def predicate(column: str, operator: Operator, *values: object) -> Predicate:
    return Predicate(column, operator, values)  # type: ignore[arg-type]


class EngineContract:
    """What every engine does."""

    async def test_a_new_table_is_empty(self, bench: Bench) -> None:
        source = await bench.table()
        assert await bench.ids(source) == []

    async def test_rows_come_back(self, bench: Bench) -> None:
        source = await bench.table()
        await bench.insert(source, 0, 5, "a")
        rows = (
            await bench.read(source, RowQuery(order_by=(OrderTerm("id", True),), limit=2))
        ).to_pylist()
        assert rows == [
            {"id": 4, "at": NOON + dt.timedelta(days=4), "note": None},
            {"id": 3, "at": NOON + dt.timedelta(days=3), "note": "n3"},
        ]

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            (predicate("id", Operator.EQUAL, 3.0), [3]),
            (predicate("id", Operator.NOT_EQUAL, "3"), [0, 1, 2, 4]),
            (predicate("id", Operator.LESS, 2.0), [0, 1]),
            (predicate("id", Operator.LESS_OR_EQUAL, 2.0), [0, 1, 2]),
            (predicate("id", Operator.GREATER, 3.0), [4]),
            (predicate("id", Operator.GREATER_OR_EQUAL, 3.0), [3, 4]),
            (predicate("id", Operator.IN, 1.0, 4.0, 9.0), [1, 4]),
            (predicate("note", Operator.IS_NULL), [0, 2, 4]),
            (predicate("note", Operator.IS_NOT_NULL), [1, 3]),
            (predicate("note", Operator.EQUAL, "n1"), [1]),
            (predicate("note", Operator.EQUAL, "n1' OR 1=1 --"), []),
            (predicate("at", Operator.GREATER, "2013-01-04T12:00:00Z"), [4]),
            (predicate("at", Operator.EQUAL, "2013-01-04T13:00:00+01:00"), [3]),
        ],
    )
    async def test_predicates_hold(
        self, bench: Bench, condition: Predicate, expected: list[int]
    ) -> None:
        source = await bench.table()
        await bench.insert(source, 0, 5, "a")
        assert await bench.ids(source, condition) == expected

    async def test_a_token_inserts_once(self, bench: Bench) -> None:
        source = await bench.table(TableLayout(("id",), "at"))
        for _ in range(2):
            await bench.insert(source, 0, 400, "a")  # over fourteen months, so as many parts
            await bench.insert(source, 400, 405, "b")
        assert await bench.ids(source) == list(range(405))

    async def test_making_a_table_again_empties_it(self, bench: Bench) -> None:
        source = await bench.table()
        await bench.insert(source, 0, 5, "a")
        layout = check_layout(TableLayout(), COLUMNS)
        await bench.engine.create(source.physical, TableDefinition(COLUMNS, layout))
        assert await bench.ids(source) == []
        await bench.insert(source, 0, 5, "a")
        assert await bench.ids(source) == list(range(5))

    async def test_dropping_may_be_repeated(self, bench: Bench) -> None:
        source = await bench.table()
        for _ in range(2):
            await bench.engine.drop(source.physical)
        for _ in range(2):
            await bench.engine.drop_database(source.physical.database)
        await bench.engine.drop(source.physical)

    async def test_every_write_makes_another_version(self, bench: Bench) -> None:
        # Over months, so that there are several parts.
        source, engine = await bench.table(TableLayout(("id",), "at")), bench.engine
        versions = [await engine.version(source)]
        for token, start in (("a", 0), ("b", 40), ("c", 0)):
            await bench.insert(source, start, start + 40, token)
            versions.append(await engine.version(source))
        await bench.insert(source, 0, 40, "a")
        assert await engine.version(source) == versions[-1]
        await engine.create(source.physical, TableDefinition(COLUMNS, TableLayout(("id",), "at")))
        versions.append(await engine.version(source))
        assert len(set(versions)) == len(versions)
        assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in versions)

    async def test_files_are_read_in_place(self, bench: Bench) -> None:
        folder = unique_name()
        location = f"external/{folder}/*.parquet"
        with pytest.raises(FilesUnreadable):
            await bench.engine.describe(location)
        rows = pa.table({"id": pa.array([1, 2, 3], pa.int64())})
        await bench.put_parquet(location, f"external/{folder}/one.parquet", rows)
        columns = await bench.engine.describe(location)
        assert [column.name for column in columns] == ["id"]
        source = ExternalSource(location, columns)
        assert await bench.ids(source, predicate("id", Operator.GREATER, 1.0)) == [2, 3]
        before = await bench.engine.version(source)
        assert await bench.engine.version(source) == before
        await bench.put_parquet(location, f"external/{folder}/one.parquet", rows.slice(1))
        assert await bench.engine.version(source) not in ("", before)


class TestMemory(EngineContract):
    @pytest.fixture
    def bench(self) -> Bench:
        return Bench(InMemoryTableEngine(), InMemoryObjectStore())


class TestClickHouse(EngineContract):
    """And what only a real engine can show."""

    @pytest.fixture
    async def bench(self, stack: Stack) -> AsyncIterator[Bench]:
        s3 = S3Config.from_env(stack.environment)
        settings = EngineSettings(f"{s3.endpoint}/{s3.bucket}", s3.access_key, s3.secret_key)
        config = ClickHouseConfig.from_env(stack.environment, database="default")
        async with ClickHouse(config) as clickhouse, S3ObjectStore(s3) as objects:
            engine = ClickHouseTableEngine(clickhouse, settings)
            bench = Bench(engine, objects, clickhouse=clickhouse)
            yield bench
            await clickhouse.command(f"DROP DATABASE IF EXISTS {bench.database} SYNC")

    async def test_a_merge_leaves_the_version_and_a_mutation_does_not(self, bench: Bench) -> None:
        assert bench.clickhouse is not None
        for layout in (TableLayout(("id",)), TableLayout(("id",), "", "at")):
            source = await bench.table(layout)
            for token in "abc":
                await bench.insert(source, 0, 5, token)
            table = f"{source.physical.database}.{source.physical.table}"
            before = await bench.engine.version(source)
            await bench.clickhouse.command(f"OPTIMIZE TABLE {table} FINAL")
            assert await bench.engine.version(source) == before
            change = f"ALTER TABLE {table} UPDATE note = 'x' WHERE id = 3"
            await bench.clickhouse.command(change, settings={"mutations_sync": 1})
            assert await bench.engine.version(source) != before

    async def test_rows_replace_each_other(self, bench: Bench) -> None:
        source = await bench.table(TableLayout(("id",), "", "at"))
        await bench.insert(source, 0, 5, "a")
        await bench.insert(source, 0, 5, "b")
        assert await bench.ids(source) == list(range(5))

    async def test_old_rows_are_dropped_and_others_are_not(self, bench: Bench) -> None:
        long = await bench.table(TableLayout(("id",), "at", "", 36_500))
        await bench.insert(long, 0, 5, "a")
        assert await bench.ids(long) == list(range(5))
        short = await bench.table(TableLayout(("id",), "at", "", 1))
        await bench.insert(short, 0, 5, "a")

        async def gone() -> bool:
            return await bench.ids(short) == []

        await eventually(gone, timeout=30)

    async def test_every_type_goes_in_and_comes_out(self, bench: Bench) -> None:
        columns = check_columns(
            [
                Column("i8", "Int8"),
                Column("u64", "UInt64"),
                Column("f32", "Float32"),
                Column("bf", "BFloat16"),
                Column("flag", "Nullable(Bool)"),
                Column("day", "Date"),
                Column("day32", "Date32"),
                Column("second", "DateTime('Europe/Berlin')"),
                Column("nano", "DateTime64(9)"),
                Column("fixed", "FixedString(3)"),
                Column("kind", "LowCardinality(Nullable(String))"),
                Column("level", "Enum8('low' = 1, 'it\\'s' = 2)"),
                Column("uuid", "Nullable(UUID)"),
                Column("ip", "IPv4"),
                Column("ip6", "IPv6"),
                Column("money", "Decimal(20, 4)"),
                Column("huge", "Int256"),
                Column("list", "Array(Nullable(Int32))"),
                Column("times", "Array(DateTime)"),
                Column("pairs", "Map(String, Float64)"),
                Column("point", "Tuple(x Int32, y String)"),
                Column("json", "JSON"),
            ]
        )
        row = {
            "i8": -5,
            "u64": 2**63,
            "f32": 1.5,
            "bf": 2.0,
            "flag": None,
            "day": dt.date(2013, 1, 1),
            "day32": dt.date(1920, 1, 1),
            "second": NOON,
            "nano": NOON,
            "fixed": b"abc",
            "kind": None,
            "level": "it's",
            "uuid": "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
            "ip": "1.2.3.4",
            "ip6": "::1",
            "money": 12,
            "huge": "-123456789012345678901234567890",
            "list": [1, None],
            "times": [NOON],
            "pairs": [("a", 1.0)],
            "point": {"x": 1, "y": "z"},
            "json": '{"a": 1}',
        }
        special = {"point": pa.struct([("x", pa.int64()), ("y", pa.string())])}
        special |= {"pairs": pa.map_(pa.string(), pa.float64()), "u64": pa.uint64()}
        special |= {"uuid": pa.string(), "kind": pa.string(), "flag": pa.bool_()}
        batch = pa.RecordBatch.from_arrays(
            [pa.array([value], special.get(name)) for name, value in row.items()],
            names=list(row),
        )
        fitter = RowFitter(batch.schema, columns)
        physical = PhysicalTable(bench.database, unique_name())
        layout = check_layout(TableLayout(), columns)
        await bench.engine.create(physical, TableDefinition(columns, layout))
        data = block_bytes(pa.Table.from_batches([fitter.fit(batch)]))
        await bench.engine.insert(physical, fitter.names, data, token="t")
        source = ManagedSource(physical, columns, final=False)
        got = (await bench.read(source, RowQuery())).to_pylist()[0]
        expected = row | {"day32": dt.date(1920, 1, 1), "json": got["json"]}
        assert got["json"].replace(" ", "") in ('{"a":1}', '{"a":"1"}')
        assert (
            got
            | {
                "nano": got["nano"].to_pydatetime()
                if hasattr(got["nano"], "to_pydatetime")
                else got["nano"]
            }
            == expected
        )

    async def test_columns_that_files_lack_are_no_zeros(self, bench: Bench) -> None:
        folder = unique_name()
        location = f"external/{folder}/*.parquet"
        rows = pa.table({"id": pa.array([1], pa.int64()), "word": ["x"]})
        await bench.put_parquet(location, f"external/{folder}/one.parquet", rows)
        for column in (Column("other", "Int64"), Column("word", "UUID")):
            with pytest.raises(FilesUnreadable):
                await bench.read(ExternalSource(location, (column,)), RowQuery())

    async def test_errors_tell_no_secret(
        self,
        bench: Bench,
        stack,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        s3 = S3Config.from_env(stack.environment)
        wrong = Secret("a-secret-that-nobody-may-see")
        assert isinstance(bench.engine, ClickHouseTableEngine)
        settings = EngineSettings(f"{s3.endpoint}/{s3.bucket}", s3.access_key, wrong)
        config = ClickHouseConfig.from_env(stack.environment, database="default")
        async with ClickHouse(config) as clickhouse:
            engine = ClickHouseTableEngine(clickhouse, settings)
            with pytest.raises(FilesUnreadable) as failure:
                await engine.describe("external/x/*.parquet")
        told = f"{failure.value} {failure.value.metadata} {settings!r} {caplog.text}"
        assert wrong.reveal() not in told
        assert s3.access_key not in str(failure.value)

    async def test_reads_write_nothing(self, bench: Bench) -> None:
        source = await bench.table()
        await bench.insert(source, 0, 5, "a")
        assert isinstance(bench.engine, ClickHouseTableEngine)
        name = f"{source.physical.database}.{source.physical.table}"
        with pytest.raises(Exception, match=r"(?i)readonly"):
            await bench.engine._clickhouse.command(
                f"TRUNCATE TABLE {name}", settings=bench.engine._reading()
            )
        assert await bench.ids(source) == list(range(5))


async def test_an_engine_that_is_away_is_unavailable() -> None:
    config = ClickHouseConfig("http://127.0.0.1:9", database="default")
    settings = EngineSettings("http://127.0.0.1:9/b", "k", Secret("s"))
    async with ClickHouse(config) as clickhouse:
        engine = ClickHouseTableEngine(clickhouse, settings)
        with pytest.raises(StorageUnavailable):
            await engine.drop(PhysicalTable("a", "b"))
