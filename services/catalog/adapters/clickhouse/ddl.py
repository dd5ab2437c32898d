"""The statements that make managed tables; everything in them was parsed and is written anew."""

from __future__ import annotations

from services.catalog.domain.column_types import parse_type, quote_literal
from services.catalog.domain.details import Column, PhysicalTable, TableLayout
from services.catalog.domain.tables import TableDefinition
from tessera_kit.store.clickhouse import qualified_name, quote_identifier

__all__ = ["COMPACT_BYTES", "DEDUPLICATION_WINDOW", "MERGED_AT_ONCE", "create_table"]

DEDUPLICATION_WINDOW = 10_000
"""How many of the last inserts a table remembers, to pass over one that is repeated."""
MERGED_AT_ONCE = 16
"""About how many parts become one. Sinks write small ones several times a second, and with the
default of 5 merging them costs as much as writing them; with more there are more parts to read."""

COMPACT_BYTES = 1 << 30
"""Parts below this keep all their columns in one file, and not each in two or more: a sink's part
of 10 MB had 90, and making them was a quarter of the database's work (decision 36)."""


def create_table(physical: PhysicalTable, definition: TableDefinition) -> str:
    """The CREATE TABLE statement of a managed table."""
    layout = definition.layout
    columns = ",\n".join(f"    {_column(column)}" for column in definition.columns)
    parts = [
        f"CREATE TABLE {qualified_name(physical.database, physical.table)} (\n{columns}\n)",
        f"ENGINE = {_engine(layout)}",
    ]
    if layout.partition_by_month_of:
        parts.append(f"PARTITION BY toYYYYMM({quote_identifier(layout.partition_by_month_of)})")
    parts.append(f"ORDER BY ({', '.join(quote_identifier(name) for name in layout.order_by)})")
    if layout.retention_days:
        # Date32, as Date and DateTime end in 2149 and 2106: what is later wraps into the past.
        day = f"toDate32({quote_identifier(layout.partition_by_month_of)})"
        parts.append(f"TTL {day} + INTERVAL {int(layout.retention_days)} DAY DELETE")
    parts.append(
        f"SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, "
        f"merge_selector_base = {MERGED_AT_ONCE}, min_bytes_for_wide_part = {COMPACT_BYTES}"
    )
    if definition.comment:
        parts.append(f"COMMENT {quote_literal(definition.comment)}")
    return "\n".join(parts)


def _column(column: Column) -> str:
    text = f"{quote_identifier(column.name)} {parse_type(column.data_type)}"
    return f"{text} COMMENT {quote_literal(column.comment)}" if column.comment else text


def _engine(layout: TableLayout) -> str:
    if layout.replacing_version_column:
        return f"ReplacingMergeTree({quote_identifier(layout.replacing_version_column)})"
    return "MergeTree"
