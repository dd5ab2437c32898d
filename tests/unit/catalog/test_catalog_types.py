"""Column types, layouts, physical names: what tables may be made of."""

from __future__ import annotations

import pytest

from services.catalog.domain.column_types import TypeSyntaxError, parse_type, quote_literal
from services.catalog.domain.details import Column, TableLayout
from services.catalog.domain.tables import (
    check_columns,
    check_layout,
    physical_database,
    physical_table,
)
from services.catalog.errors import InvalidColumn, InvalidLayout


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Int64", "Int64"),
        (" Nullable( String ) ", "Nullable(String)"),
        ("LowCardinality(Nullable(FixedString(16)))", "LowCardinality(Nullable(FixedString(16)))"),
        ("DateTime", "DateTime"),
        ("DateTime('Europe/Berlin')", "DateTime('Europe/Berlin')"),
        ("DateTime64(6,'UTC')", "DateTime64(6, 'UTC')"),
        ("Decimal(38,10)", "Decimal(38, 10)"),
        ("Decimal64(4)", "Decimal64(4)"),
        ("Enum8('a'=1,'it\\'s'=-2)", "Enum8('a' = 1, 'it\\'s' = -2)"),
        ("Array(Array(Float32))", "Array(Array(Float32))"),
        (
            "Map(LowCardinality(String),Array(UInt8))",
            "Map(LowCardinality(String), Array(UInt8))",
        ),
        ("Tuple(Int8,String)", "Tuple(Int8, String)"),
        ("Tuple(`x` Int8, y String)", "Tuple(`x` Int8, `y` String)"),
        ("Tuple(x Int8, y Nullable(String))", "Tuple(`x` Int8, `y` Nullable(String))"),
    ],
)
def test_types_are_written_in_one_way(text: str, canonical: str) -> None:
    assert str(parse_type(text)) == canonical
    assert str(parse_type(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Int65",
        "int64",
        "Int64)",
        "Int64; DROP TABLE x",
        "Int64 DEFAULT 1",
        "String) ENGINE = Memory --",
        "Nullable(Array(Int8))",
        "Nullable(Nullable(Int8))",
        "LowCardinality(Array(String))",
        "Map(Float64, String)",
        "Map(Nullable(String), String)",
        "FixedString(0)",
        "FixedString(99999999999)",
        "Decimal(77, 1)",
        "Decimal(10, 11)",
        "DateTime64(10)",
        "DateTime('Europe/Atlantis')",
        "DateTime('UTC\\' , x')",
        "Enum8('a' = 1, 'a' = 2)",
        "Enum8('a' = 1, 'b' = 1)",
        "Enum8('a' = 128)",
        "Enum8(a = 1)",
        "AggregateFunction(sum, Int64)",
        "Nested(a Int8)",
        "Array(" * 20 + "Int8" + ")" * 20,
        "Tuple(a Int8, a Int8)",
        "Int64\0",
        "`Int64`",
        "Tuple(`x``y` Int8)",
        "Tuple(x Int8, String)",
        "Int64 /* */",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(TypeSyntaxError):
        parse_type(text)


def test_literals_cannot_end_early() -> None:
    assert quote_literal("it's a \\ thing") == "'it\\'s a \\\\ thing'"
    with pytest.raises(ValueError, match="NUL"):
        quote_literal("a\0b")


COLUMNS = (
    Column("id", "UInt64"),
    Column("at", "DateTime"),
    Column("score", "Nullable(Float64)"),
    Column("tags", "Map(String, String)"),
    Column("day", "Date"),
    Column("kind", "LowCardinality(String)"),
    Column("host", "String"),
    Column("port", "UInt16"),
)


class TestColumns:
    def test_types_come_back_canonical(self) -> None:
        assert check_columns([Column("a", "Nullable( Int8)", "x")]) == (
            Column("a", "Nullable(Int8)", "x"),
        )

    @pytest.mark.parametrize("name", ["", "1a", "a b", "a`b", "a.b", "ä", "a\n", "a" * 256])
    def test_odd_names_are_refused(self, name: str) -> None:
        with pytest.raises(InvalidColumn) as failure:
            check_columns([Column(name, "Int8")])
        assert failure.value.violations[0].field == "table.columns[0].name"

    def test_faults_name_the_field(self) -> None:
        with pytest.raises(InvalidColumn) as failure:
            check_columns([Column("a", "Int8"), Column("b", "Blob")])
        assert failure.value.violations[0].field == "table.columns[1].data_type"
        with pytest.raises(InvalidColumn) as failure:
            check_columns([Column("a", "Int8"), Column("a", "Int8")])
        assert failure.value.violations[0].field == "table.columns[1].name"

    def test_a_managed_table_has_columns(self) -> None:
        with pytest.raises(InvalidColumn):
            check_columns([])
        assert check_columns([], may_be_empty=True) == ()


class TestLayout:
    def test_the_first_sortable_columns_order_by_default(self) -> None:
        assert check_layout(TableLayout(), COLUMNS).order_by == ("id", "at", "day", "kind")

    def test_what_is_given_stays(self) -> None:
        layout = TableLayout(("kind", "at"), "day", "at", 30)
        assert check_layout(layout, COLUMNS) == layout

    @pytest.mark.parametrize(
        ("layout", "field"),
        [
            (TableLayout(("missing",)), "table.layout.order_by[0]"),
            (TableLayout(("id", "score")), "table.layout.order_by[1]"),
            (TableLayout(("tags",)), "table.layout.order_by[0]"),
            (TableLayout(("id", "id")), "table.layout.order_by[1]"),
            (TableLayout(("id",), "id"), "table.layout.partition_by_month_of"),
            (TableLayout(("id",), "none"), "table.layout.partition_by_month_of"),
            (TableLayout(("id",), "", "host"), "table.layout.replacing_version_column"),
            (TableLayout((), "", "at"), "table.layout.order_by"),
            (TableLayout(("id",), "", "", 7), "table.layout.retention_days"),
        ],
    )
    def test_what_does_not_fit_is_named(self, layout: TableLayout, field: str) -> None:
        with pytest.raises(InvalidLayout) as failure:
            check_layout(layout, COLUMNS)
        assert failure.value.violations[0].field == field


class TestPhysicalNames:
    def test_are_readable(self) -> None:
        physical = physical_table("tessera", "main.default.flights")
        assert (physical.database, physical.table) == ("tessera_main__default", "flights")

    def test_names_that_could_be_read_in_two_ways_get_a_hash(self) -> None:
        names = ["a__b.c", "a.b__c", "a_.b", "a._b", "a.b_c", "a_b.c", "a___b.c", "a.__b"]
        assert len({physical_database("tessera", name) for name in names}) == len(names)

    def test_long_names_fit_a_file_name_and_stay_apart(self) -> None:
        long = physical_table("tessera", f"{'a-' * 60}.{'b' * 128}.{'-' * 0}{'c-' * 64}")
        for name in (long.database, long.table):
            assert len(name) + 2 * name.count("-") < 240
        other = physical_table("tessera", f"{'a-' * 60}.{'b' * 128}.{'c-' * 63}cc")
        assert other.database == long.database
        assert other.table != long.table
