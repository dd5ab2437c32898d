"""The statements that read rows: values travel as bound parameters, names are quoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.catalog.domain.column_types import ColumnType, parse_type, quote_literal
from services.catalog.domain.details import Column
from services.catalog.domain.rows import Operator, Predicate, RowQuery
from services.catalog.ports import ManagedSource, RowSource
from tessera_kit.store.clickhouse import quote_identifier

__all__ = ["Statement", "count_rows", "file_facts", "part_facts", "readable", "select_rows"]

_SIGNS: Mapping[Operator, str] = {
    Operator.EQUAL: "=",
    Operator.NOT_EQUAL: "!=",
    Operator.LESS: "<",
    Operator.LESS_OR_EQUAL: "<=",
    Operator.GREATER: ">",
    Operator.GREATER_OR_EQUAL: ">=",
}
_AS_TEXT = frozenset(
    {"UUID", "IPv4", "IPv6", "Enum8", "Enum16", "JSON", "Int128", "Int256", "UInt128", "UInt256"}
)


@dataclass(slots=True)
class Statement:
    """SQL with the values that its placeholders stand for."""

    sql: str
    parameters: dict[str, object] = field(default_factory=dict)


def readable(kind: ColumnType) -> ColumnType:
    """The type that a column is read as: what Arrow has no word for becomes text or a timestamp."""
    if kind.name in _AS_TEXT:
        return ColumnType("String")
    if kind.name == "BFloat16":
        return ColumnType("Float32")
    if kind.name == "DateTime":
        return ColumnType("DateTime64", numbers=(0,), texts=kind.texts or ("UTC",))
    if kind.name == "DateTime64" and not kind.texts:
        return replace(kind, texts=("UTC",))
    return replace(kind, arguments=tuple(readable(inner) for inner in kind.arguments))


def select_rows(source: RowSource, query: RowQuery, origin: Statement) -> Statement:
    """The SELECT of a checked query; `origin` is what stands after FROM."""
    types = {column.name: parse_type(column.data_type) for column in source.columns}
    names = query.columns or tuple(types)
    columns = ", ".join(_selected(name, types[name]) for name in names)
    # Every part is a quoted name, a type written from its parsed form, or a placeholder.
    statement = Statement(
        f"SELECT {columns} FROM {origin.sql}",  # noqa: S608
        dict(origin.parameters),
    )
    _where(statement, query, types)
    if query.order_by:
        terms = (
            f"{quote_identifier(term.column)} {'DESC' if term.descending else 'ASC'}"
            for term in query.order_by
        )
        statement.sql += f" ORDER BY {', '.join(terms)}"
    if query.limit:
        statement.sql += " LIMIT {row_limit:UInt64}"
        statement.parameters["row_limit"] = query.limit
    return statement


def count_rows(source: RowSource, query: RowQuery, origin: Statement) -> Statement:
    """The SELECT that counts the rows of a checked query."""
    types = {column.name: parse_type(column.data_type) for column in source.columns}
    statement = Statement(
        f"SELECT count() FROM {origin.sql}",  # noqa: S608
        dict(origin.parameters),
    )
    _where(statement, query, types)
    return statement


def part_facts(source: ManagedSource) -> Statement:
    """The SELECT of what changes with every write to a table, and with nothing else.

    Each insert takes the next block number of its partition, a merge keeps the greatest of its
    parts', and a mutation adds its own number to their names. Rows leave by retention alone, but
    where rows replace each other, which merges do as they come. The id is that of one making.
    """
    return Statement(
        "SELECT toString(tables.uuid), parts.places FROM system.tables AS tables LEFT JOIN ("
        "SELECT arraySort(groupArray((partition_id, block, held, mutation))) AS places FROM ("
        "SELECT partition_id, max(max_block_number) AS block, sum(rows) * {held:UInt8} AS held, "
        r"max(toUInt64OrZero(extract(name, '^[^_]+_\\d+_\\d+_\\d+_(\\d+)$'))) AS mutation "
        "FROM system.parts WHERE active AND database = {database:String} "
        "AND table = {table:String} GROUP BY partition_id)) AS parts ON 1 = 1 "
        "WHERE tables.database = {database:String} AND tables.name = {table:String}",
        {
            "database": source.physical.database,
            "table": source.physical.table,
            "held": int(not source.final),
        },
    )


def file_facts(origin: Statement) -> Statement:
    """The SELECT of what identifies the files of a location, their rows unread."""
    return Statement(
        f"SELECT _path, any(_etag), any(_size) FROM {origin.sql} GROUP BY _path ORDER BY _path",  # noqa: S608
        dict(origin.parameters),
    )


def structure(columns: tuple[Column, ...]) -> str:
    """Columns as table functions take them."""
    return ", ".join(
        f"{quote_identifier(column.name)} {parse_type(column.data_type)}" for column in columns
    )


def _selected(name: str, kind: ColumnType) -> str:
    quoted, wanted = quote_identifier(name), readable(kind)
    if wanted == kind:
        return quoted
    return f"CAST({quoted}, {quote_literal(str(wanted))}) AS {quoted}"


def _where(statement: Statement, query: RowQuery, types: Mapping[str, ColumnType]) -> None:
    conditions = [
        _condition(statement, predicate, types[predicate.column], index)
        for index, predicate in enumerate(query.predicates)
    ]
    if conditions:
        statement.sql += f" WHERE {' AND '.join(conditions)}"


def _condition(statement: Statement, predicate: Predicate, kind: ColumnType, index: int) -> str:
    quoted = quote_identifier(predicate.column)
    match predicate.operator:
        case Operator.IS_NULL:
            return f"{quoted} IS NULL"
        case Operator.IS_NOT_NULL:
            return f"{quoted} IS NOT NULL"
        case Operator.IN:
            marks = [
                _bound(statement, value, kind.base, f"p{index}_{position}")
                for position, value in enumerate(predicate.values)
            ]
            return f"{quoted} IN ({', '.join(marks)})"
        case operator:
            mark = _bound(statement, predicate.values[0], kind.base, f"p{index}")
            return f"{quoted} {_SIGNS[operator]} {mark}"


def _bound(statement: Statement, value: object, kind: ColumnType, name: str) -> str:
    """The placeholder of a value; times were written in UTC."""
    if kind.name in ("DateTime", "DateTime64"):
        wanted = ColumnType("DateTime64", numbers=(6,), texts=("UTC",))
    elif kind.name in ("FixedString", "Enum8", "Enum16"):
        wanted = ColumnType("String")
    else:
        wanted = kind
    statement.parameters[name] = value
    return f"{{{name}:{wanted}}}"
