"""Rows in memory as Arrow tables, with the deduplication of ClickHouse."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from services.catalog.domain.details import Column, PhysicalTable
from services.catalog.domain.rows import Operator, Predicate, RowQuery
from services.catalog.domain.tables import TableDefinition
from services.catalog.errors import FilesUnreadable, StorageUnavailable
from services.catalog.ports import ExternalSource, ManagedSource, RowSource
from tessera_kit.ids import new_id

__all__ = ["InMemoryTableEngine"]

_COMPARISONS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQUAL: pc.equal,
    Operator.NOT_EQUAL: pc.not_equal,
    Operator.LESS: pc.less,
    Operator.LESS_OR_EQUAL: pc.less_equal,
    Operator.GREATER: pc.greater,
    Operator.GREATER_OR_EQUAL: pc.greater_equal,
}


class InMemoryTableEngine:
    """The `TableEngine` port in memory; a ReplacingMergeTree's rows are never collapsed.

    `available` may be set to False, which makes every call raise StorageUnavailable.
    """

    def __init__(self) -> None:
        self.available = True
        self.tables: dict[PhysicalTable, pa.Table | None] = {}
        self.files: dict[str, tuple[tuple[Column, ...], pa.Table]] = {}
        """External locations, with what is to be read there."""
        self._definitions: dict[PhysicalTable, TableDefinition] = {}
        self._tokens: set[tuple[PhysicalTable, str]] = set()
        self._writes: dict[PhysicalTable, tuple[str, ...]] = {}

    async def create(self, physical: PhysicalTable, definition: TableDefinition) -> None:
        """Make an empty table."""
        self._check()
        await self.drop(physical)
        self.tables[physical] = None
        self._definitions[physical] = definition
        self._writes[physical] = (new_id(),)

    async def drop(self, physical: PhysicalTable) -> None:
        """Drop a table."""
        self._check()
        self.tables.pop(physical, None)
        self._definitions.pop(physical, None)
        self._tokens = {token for token in self._tokens if token[0] != physical}

    async def drop_database(self, database: str) -> None:
        """Databases are nothing of their own here."""
        self._check()

    async def describe(self, location: str) -> tuple[Column, ...]:
        """Columns of what is at a location."""
        self._check()
        if location not in self.files:
            raise FilesUnreadable("no Parquet file is readable at its location")
        return self.files[location][0]

    async def read(self, source: RowSource, query: RowQuery) -> AsyncIterator[bytes]:
        """Rows as the bytes of one Arrow IPC stream."""
        self._check()
        table = self._selected(source, query)
        if query.order_by:
            keys = [
                (term.column, "descending" if term.descending else "ascending")
                for term in query.order_by
            ]
            table = table.sort_by(keys)
        if query.limit:
            table = table.slice(0, query.limit)
        if query.columns:
            table = table.select(list(query.columns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        yield sink.getvalue().to_pybytes()

    async def count(self, source: RowSource, query: RowQuery) -> int:
        """How many rows fulfil the query's predicates."""
        self._check()
        return int(self._selected(source, query).num_rows)

    async def version(self, source: RowSource) -> str:
        """Name the content by the writes of a table, or by the rows of files."""
        self._check()
        match source:
            case ManagedSource():
                facts = repr(self._writes.get(source.physical, ()))
            case ExternalSource():
                facts = repr(self._selected(source, RowQuery()).to_pydict())
        return hashlib.sha256(facts.encode()).hexdigest()[:32]

    async def insert(
        self, physical: PhysicalTable, columns: Sequence[str], block: bytes, *, token: str
    ) -> None:
        """Append one block of rows; once per token."""
        self._check()
        if (physical, token) in self._tokens:
            return
        rows = pa.ipc.open_stream(block).read_all().rename_columns(list(columns))
        before = self.tables[physical]
        self.tables[physical] = rows if before is None else pa.concat_tables([before, rows])
        self._tokens.add((physical, token))
        self._writes[physical] += (token,)

    def _selected(self, source: RowSource, query: RowQuery) -> pa.Table:
        match source:
            case ManagedSource():
                table = self.tables.get(source.physical)
            case ExternalSource():
                if source.location not in self.files:
                    raise FilesUnreadable("no Parquet file is readable at its location")
                table = self.files[source.location][1]
        if table is None:
            return pa.table({column.name: pa.array([], pa.null()) for column in source.columns})
        for predicate in query.predicates:
            table = table.filter(_mask(table[predicate.column], predicate))
        return table

    def _check(self) -> None:
        if not self.available:
            raise StorageUnavailable("the engine does not answer")


def _mask(column: pa.ChunkedArray, predicate: Predicate) -> pa.Array:
    if predicate.operator is Operator.IS_NULL:
        return pc.is_null(column)
    if predicate.operator is Operator.IS_NOT_NULL:
        return pc.is_valid(column)
    wanted = _values([str(value) for value in predicate.values], column.type)
    if predicate.operator is Operator.IN:
        return pc.is_in(column, wanted)
    return _COMPARISONS[predicate.operator](column, wanted[0])


def _values(texts: Sequence[str], kind: pa.DataType) -> pa.Array:
    """Canonical texts of a checked query as values of a column's type."""
    if pa.types.is_timestamp(kind):
        moments = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in texts]
        return pa.array(moments, kind)
    return pc.cast(pa.array(texts), kind)
