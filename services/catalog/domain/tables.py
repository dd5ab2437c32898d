"""Checks a managed table's columns and layout, and names its place in ClickHouse."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.catalog.domain.column_types import ColumnType, TypeSyntaxError, parse_type
from services.catalog.domain.details import Column, PhysicalTable, TableLayout
from services.catalog.errors import InvalidColumn, InvalidLayout, of_field

__all__ = [
    "TableDefinition",
    "check_columns",
    "check_layout",
    "physical_database",
    "physical_table",
]

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
_DATES = frozenset({"Date", "Date32", "DateTime", "DateTime64"})
_VERSIONS = frozenset({"UInt8", "UInt16", "UInt32", "UInt64", *_DATES} - {"Date32"})
_DEFAULT_KEY_COLUMNS = 4
_LONGEST_PHYSICAL_NAME = 120
_HASH_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """What a managed table is made from; everything in it is checked."""

    columns: tuple[Column, ...]
    layout: TableLayout
    comment: str = ""


def check_columns(columns: Sequence[Column], *, may_be_empty: bool = False) -> tuple[Column, ...]:
    """Return the columns with their types written in the canonical way.

    Raises:
        InvalidColumn: A name or type is not accepted, a name occurs twice, or there is none.
    """
    if not columns and not may_be_empty:
        raise of_field(InvalidColumn, "table.columns", "must hold at least one column")
    found: list[Column] = []
    seen: set[str] = set()
    for index, column in enumerate(columns):
        field = f"table.columns[{index}]"
        if not _COLUMN.match(column.name):
            rule = "must be letters, digits and _, not starting with a digit, at most 255"
            raise of_field(InvalidColumn, f"{field}.name", rule)
        if column.name in seen:
            raise of_field(InvalidColumn, f"{field}.name", "occurs twice")
        seen.add(column.name)
        try:
            kind = parse_type(column.data_type)
        except TypeSyntaxError as error:
            raise of_field(
                InvalidColumn, f"{field}.data_type", f"is not accepted: {error}"
            ) from None
        found.append(replace(column, data_type=str(kind)))
    return tuple(found)


def check_layout(layout: TableLayout, columns: Sequence[Column]) -> TableLayout:
    """Return the layout with its order filled in: by default the first columns that may order.

    Raises:
        InvalidLayout: It names a column that is not there or whose type does not serve.
    """
    types = {column.name: parse_type(column.data_type) for column in columns}
    for index, name in enumerate(layout.order_by):
        field = f"table.layout.order_by[{index}]"
        kind = _typed(types, name, field)
        if not kind.sortable:
            raise of_field(InvalidLayout, field, f"is a {kind}, which rows cannot be ordered by")
        if name in layout.order_by[:index]:
            raise of_field(InvalidLayout, field, "occurs twice")
    _check_partition(layout, types)
    _check_version(layout, types)
    if layout.order_by:
        return layout
    key = [name for name, kind in types.items() if kind.sortable][:_DEFAULT_KEY_COLUMNS]
    return replace(layout, order_by=tuple(key))


def _check_partition(layout: TableLayout, types: dict[str, ColumnType]) -> None:
    name = layout.partition_by_month_of
    if name:
        field = "table.layout.partition_by_month_of"
        kind = _typed(types, name, field)
        if kind.nullable or kind.base.name not in _DATES:
            raise of_field(InvalidLayout, field, "must be a Date or DateTime that is not Nullable")
    elif layout.retention_days:
        text = "needs partition_by_month_of, which tells the age of a row"
        raise of_field(InvalidLayout, "table.layout.retention_days", text)


def _check_version(layout: TableLayout, types: dict[str, ColumnType]) -> None:
    name = layout.replacing_version_column
    if not name:
        return
    field = "table.layout.replacing_version_column"
    kind = _typed(types, name, field)
    if kind.nullable or kind.base.name not in _VERSIONS:
        raise of_field(InvalidLayout, field, "must be an unsigned integer, Date or DateTime")
    if not layout.order_by:
        text = "must name the columns that tell which rows replace each other"
        raise of_field(InvalidLayout, "table.layout.order_by", text)


def _typed(types: dict[str, ColumnType], name: str, field: str) -> ColumnType:
    kind = types.get(name)
    if kind is None:
        raise of_field(InvalidLayout, field, "is not a column of the table")
    return kind


def physical_database(prefix: str, schema_full_name: str) -> str:
    """The ClickHouse database of a schema: `<prefix>_<catalog>__<schema>`.

    Different schemas have different databases: where the readable form could be read in two ways,
    or is too long for a file's name, a hash follows an upper-case H, which no name holds.
    """
    catalog, schema = schema_full_name.split(".")
    joined = f"{catalog}__{schema}"
    clear = joined.count("__") == 1 and "___" not in joined
    return f"{prefix}_{_bounded(joined, schema_full_name, clear=clear)}"


def physical_table(prefix: str, full_name: str) -> PhysicalTable:
    """The place of a table in ClickHouse."""
    schema, _, name = full_name.rpartition(".")
    return PhysicalTable(physical_database(prefix, schema), _bounded(name, name, clear=True))


def _bounded(readable: str, identity: str, *, clear: bool) -> str:
    # ClickHouse writes names into file names, where a dash takes three bytes and 255 fit.
    if clear and len(readable) + 2 * readable.count("-") <= _LONGEST_PHYSICAL_NAME:
        return readable
    digest = hashlib.sha256(identity.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{readable[:60].replace('-', '_')}H{digest}"
