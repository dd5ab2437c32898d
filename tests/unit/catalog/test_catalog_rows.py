"""Queries of rows, and rows that arrive as Arrow batches."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest

from services.catalog.adapters.clickhouse.select import Statement, readable, select_rows
from services.catalog.domain.arrow_rows import (
    BYTES_PER_BLOCK,
    ROWS_PER_BLOCK,
    BlockCutter,
    RowFitter,
    block_bytes,
)
from services.catalog.domain.column_types import parse_type
from services.catalog.domain.details import Column, PhysicalTable
from services.catalog.domain.rows import Operator, OrderTerm, Predicate, RowQuery, check_query
from services.catalog.errors import InvalidPredicate, SchemaMismatch
from services.catalog.ports import ManagedSource

COLUMNS = (
    Column("id", "Int32"),
    Column("big", "UInt64"),
    Column("score", "Nullable(Float64)"),
    Column("at", "DateTime64(3, 'UTC')"),
    Column("day", "Date"),
    Column("name", "LowCardinality(String)"),
    Column("ok", "Bool"),
    Column("amount", "Decimal(10, 2)"),
    Column("vector", "Array(Float32)"),
)


def checked(column: str, operator: Operator, *values: object) -> tuple[object, ...]:
    predicate = Predicate(column, operator, values)  # type: ignore[arg-type]
    return check_query(RowQuery(predicates=(predicate,)), COLUMNS).predicates[0].values


class TestQueries:
    @pytest.mark.parametrize(
        ("column", "value", "text"),
        [
            ("id", 5.0, "5"),
            ("id", "-7", "-7"),
            ("big", "18446744073709551615", "18446744073709551615"),
            ("score", 1.5, "1.5"),
            ("score", "1e3", "1000.0"),
            ("at", "2013-01-02T03:04:05+02:00", "2013-01-02 01:04:05.000000"),
            ("at", "2013-01-02T03:04:05.25Z", "2013-01-02 03:04:05.250000"),
            ("day", "2013-01-02", "2013-01-02"),
            ("name", "it's", "it's"),
            ("ok", True, "true"),
            ("amount", "12.30", "12.30"),
        ],
    )
    def test_values_become_text_of_the_columns_type(
        self, column: str, value: object, text: str
    ) -> None:
        assert checked(column, Operator.EQUAL, value) == (text,)

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("id", 5.5),
            ("id", 2.0**40),
            ("id", "x"),
            ("id", True),
            ("big", -1.0),
            ("big", 2.0**60),
            ("score", "nan"),
            ("score", float("inf")),
            ("at", "yesterday"),
            ("at", 5.0),
            ("day", "2013-13-01"),
            ("name", 5.0),
            ("ok", "true"),
            ("amount", "1,5"),
        ],
    )
    def test_values_that_do_not_fit_are_refused(self, column: str, value: object) -> None:
        with pytest.raises(InvalidPredicate) as failure:
            checked(column, Operator.EQUAL, value)
        assert failure.value.violations[0].field == "predicates[0].value"

    def test_unknown_columns_are_named_everywhere(self) -> None:
        for query, field in [
            (RowQuery(columns=("nope",)), "columns[0]"),
            (RowQuery(columns=("id", "id")), "columns[1]"),
            (RowQuery(order_by=(OrderTerm("nope"),)), "order_by[0]"),
            (RowQuery(predicates=(Predicate("nope", Operator.IS_NULL),)), "predicates[0].column"),
        ]:
            with pytest.raises(InvalidPredicate) as failure:
                check_query(query, COLUMNS)
            assert failure.value.violations[0].field == field

    def test_lists_and_arrays(self) -> None:
        assert checked("id", Operator.IN, 1.0, "2") == ("1", "2")
        with pytest.raises(InvalidPredicate):
            checked("id", Operator.IN)
        with pytest.raises(InvalidPredicate):
            checked("id", Operator.EQUAL, 1.0, 2.0)
        with pytest.raises(InvalidPredicate):
            checked("vector", Operator.EQUAL, "[1]")
        assert checked("vector", Operator.IS_NOT_NULL) == ()


class TestStatements:
    SOURCE = ManagedSource(PhysicalTable("d", "t"), COLUMNS, final=False)

    def statement(self, query: RowQuery) -> Statement:
        return select_rows(self.SOURCE, check_query(query, COLUMNS), Statement("`d`.`t`"))

    def test_values_travel_as_parameters_only(self) -> None:
        evil = "x' OR 1=1 --"
        query = RowQuery(
            ("id", "name"),
            (
                Predicate("name", Operator.EQUAL, (evil,)),
                Predicate("id", Operator.IN, (1.0, 2.0)),
                Predicate("at", Operator.LESS, ("2013-01-01T00:00:00Z",)),
            ),
            (OrderTerm("id", True),),
            7,
        )
        statement = self.statement(query)
        assert statement.sql == (
            "SELECT `id`, `name` FROM `d`.`t` WHERE `name` = {p0:String} AND "
            "`id` IN ({p1_0:Int32}, {p1_1:Int32}) AND `at` < {p2:DateTime64(6, 'UTC')} "
            "ORDER BY `id` DESC LIMIT {row_limit:UInt64}"
        )
        assert statement.parameters["p0"] == evil
        assert evil not in statement.sql

    @pytest.mark.parametrize(
        ("kind", "read_as"),
        [
            ("Int64", "Int64"),
            ("UUID", "String"),
            ("Nullable(UUID)", "Nullable(String)"),
            ("DateTime", "DateTime64(0, 'UTC')"),
            ("Array(DateTime('Europe/Berlin'))", "Array(DateTime64(0, 'Europe/Berlin'))"),
            ("Enum8('a' = 1)", "String"),
            ("Map(String, IPv4)", "Map(String, String)"),
            ("Tuple(x Int8, y UUID)", "Tuple(`x` Int8, `y` String)"),
        ],
    )
    def test_what_arrow_has_no_word_for_is_read_as_text_or_time(
        self, kind: str, read_as: str
    ) -> None:
        assert str(readable(parse_type(kind))) == read_as


def fitted(columns: dict[str, pa.Array], table: tuple[Column, ...]) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pydict(columns)
    return RowFitter(batch.schema, table).fit(batch)


class TestFitting:
    def test_types_are_widened_and_narrowed_without_loss(self) -> None:
        moment = dt.datetime(2013, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
        batch = fitted(
            {
                "id": pa.array([1, 2], pa.int64()),
                "score": pa.array([1, None], pa.float32()),
                "at": pa.array([moment, moment], pa.timestamp("ns", "Europe/Berlin")),
                "day": pa.array([moment.date()] * 2, pa.date64()),
                "name": pa.array(["a", "b"]).dictionary_encode(),
                "amount": pa.array([Decimal("1.5"), Decimal("2")], pa.decimal128(4, 1)),
                "vector": pa.array([[1.0], []], pa.large_list(pa.float64())),
                "big": pa.array([1, 2], pa.uint8()),
                "ok": pa.array([True, False]),
            },
            COLUMNS,
        )
        assert batch.schema.field("id").type == pa.int32()
        assert batch.schema.field("at").type == pa.timestamp("ms", "UTC")
        assert batch.schema.field("name").type == pa.string()
        assert batch.column("at")[0].as_py() == moment
        assert batch.column("amount")[0].as_py() == Decimal("1.50")

    @pytest.mark.parametrize(
        ("array", "column", "words"),
        [
            (pa.array([2**40]), Column("x", "Int32"), "does not fit"),
            (pa.array([-1]), Column("x", "UInt8"), "does not fit"),
            (pa.array([1.5]), Column("x", "Int64"), "is double"),
            (pa.array(["1"]), Column("x", "Int64"), "is string"),
            (pa.array([1]), Column("x", "String"), "is int64"),
            (pa.array([1, None]), Column("x", "Int64"), "holds 1 nulls"),
            (pa.array([None]), Column("x", "String"), "holds 1 nulls"),
            (pa.array([[1]]), Column("x", "Int64"), "is list"),
            (pa.array([["a"]]), Column("x", "Array(Int64)"), "is list"),
            (pa.array([{"a": 1}]), Column("x", "Tuple(b Int64)"), "is struct"),
            (pa.array([1], pa.duration("s")), Column("x", "Int64"), "is duration"),
        ],
    )
    def test_what_would_lose_something_is_refused_by_name(
        self, array: pa.Array, column: Column, words: str
    ) -> None:
        with pytest.raises(SchemaMismatch) as failure:
            fitted({"x": array}, (column,))
        assert failure.value.violations[0].field == "x"
        assert words in failure.value.violations[0].description

    def test_unknown_and_missing_columns_are_named_together(self) -> None:
        with pytest.raises(SchemaMismatch) as failure:
            fitted({"other": pa.array([1])}, (Column("a", "Int8"), Column("b", "Nullable(Int8)")))
        assert {fault.field for fault in failure.value.violations} == {"other", "a"}

    def test_bytes_may_be_stored_as_string(self) -> None:
        batch = fitted({"x": pa.array([b"\xff"])}, (Column("x", "String"),))
        assert batch.column("x")[0].as_py() == b"\xff"


class TestBlocks:
    def test_blocks_have_whole_quanta_and_all_rows(self) -> None:
        rows = pa.RecordBatch.from_pydict({"x": pa.array(range(ROWS_PER_BLOCK * 2 + 5))})
        cutter = BlockCutter()
        blocks = list(cutter.push(rows))
        rest = cutter.rest()
        assert [block.num_rows for block in blocks] == [ROWS_PER_BLOCK] * 2
        assert rest is not None
        assert rest.num_rows == 5
        assert cutter.rest() is None
        values = [v for block in [*blocks, rest] for v in block["x"].to_pylist()]
        assert values == list(range(ROWS_PER_BLOCK * 2 + 5))

    def test_wide_rows_make_smaller_blocks(self) -> None:
        wide = pa.RecordBatch.from_pydict({"x": pa.array(["y" * 4096] * 20_000)})
        blocks = list(BlockCutter().push(wide))
        assert blocks
        assert all(block.num_rows % 4096 == 0 for block in blocks)
        assert all(block.nbytes < 2 * BYTES_PER_BLOCK for block in blocks)

    def test_a_block_travels_as_one_batch(self) -> None:
        cutter = BlockCutter()
        for start in range(3):
            batch = pa.RecordBatch.from_pydict({"x": pa.array([start])})
            assert list(cutter.push(batch)) == []
        rest = cutter.rest()
        assert rest is not None
        reader = pa.ipc.open_stream(block_bytes(rest))
        assert reader.read_next_batch().to_pydict() == {"x": [0, 1, 2]}
        with pytest.raises(StopIteration):
            reader.read_next_batch()
