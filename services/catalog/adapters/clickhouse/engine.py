"""Tables in ClickHouse and Parquet in the object store, through ClickHouse's HTTP door."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from services.catalog.adapters.clickhouse.ddl import create_table
from services.catalog.adapters.clickhouse.select import (
    Statement,
    count_rows,
    file_facts,
    part_facts,
    select_rows,
    structure,
)
from services.catalog.domain.column_types import TypeSyntaxError, parse_type
from services.catalog.domain.details import Column, PhysicalTable
from services.catalog.domain.rows import RowQuery
from services.catalog.domain.tables import TableDefinition
from services.catalog.errors import (
    FilesUnreadable,
    LimitReached,
    SchemaMismatch,
    StorageUnavailable,
)
from services.catalog.ports import ExternalSource, ManagedSource, RowSource
from tessera_kit.config import Secret
from tessera_kit.errors import Internal, TesseraError, Unavailable
from tessera_kit.store.clickhouse import ClickHouse, qualified_name, quote_identifier
from tessera_kit.store.clickhouse_errors import QueryRejected, QueryTooLarge, TableNotFound

__all__ = ["ClickHouseTableEngine", "EngineSettings"]

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_DDL_SECONDS = 60
_COLUMN_IN_TEXT = re.compile(r"column:? [`']?([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of a query, and the object store as ClickHouse reaches it."""

    bucket_url: str
    """URL of the bucket, without a slash at its end."""
    access_key: str
    secret_key: Secret
    seconds: int = 300
    """How long one query may take."""
    memory_bytes: int = 1 << 30
    """How much memory one query may take; sorting spills to disk before."""
    threads: int = field(default=4)
    """How many threads one query may use."""


class ClickHouseTableEngine:
    """The `TableEngine` port.

    Args:
        clickhouse: Its user makes databases and tables and reads `s3()`.
        settings: Bounds and credentials; no credential ever stands in a statement's text.
    """

    def __init__(self, clickhouse: ClickHouse, settings: EngineSettings) -> None:
        self._clickhouse = clickhouse
        self._settings = settings

    async def create(self, physical: PhysicalTable, definition: TableDefinition) -> None:
        """Make an empty table and its database."""
        await self._command(f"CREATE DATABASE IF NOT EXISTS {quote_identifier(physical.database)}")
        await self._command(_drop_table(physical))
        await self._command(create_table(physical, definition))

    async def drop(self, physical: PhysicalTable) -> None:
        """Drop a table."""
        try:
            await self._command(_drop_table(physical))
        except TableNotFound:
            return  # not even its database is there

    async def drop_database(self, database: str) -> None:
        """Drop a database that holds nothing."""
        sql = "SELECT count() FROM system.tables WHERE database = {database:String}"
        with _translated():
            result = await self._clickhouse.query(sql, {"database": database})
        if result.rows[0][0] == 0:
            await self._command(f"DROP DATABASE IF EXISTS {quote_identifier(database)} SYNC")

    async def describe(self, location: str) -> tuple[Column, ...]:
        """Columns of the Parquet files at a location."""
        origin = self._files(location, None)
        with _translated(of_files=True):
            result = await self._clickhouse.query(
                f"DESCRIBE TABLE {origin.sql}", origin.parameters, self._reading()
            )
        columns = tuple(Column(str(row[0]), str(row[1])) for row in result.rows)
        for column in columns:
            try:
                parse_type(column.data_type)
            except TypeSyntaxError as error:
                text = f"column {column.name} has a type that tables do not have: {error}"
                raise FilesUnreadable(text) from None
        return columns

    async def read(self, source: RowSource, query: RowQuery) -> AsyncIterator[bytes]:
        """Rows as the bytes of one Arrow IPC stream."""
        statement = select_rows(source, query, self._origin(source))
        tail = b""
        with _translated(of_files=isinstance(source, ExternalSource)):
            pieces = self._clickhouse.stream_bytes(
                statement.sql, statement.parameters, self._reading(), format="ArrowStream"
            )
            async for piece in pieces:
                tail = (tail + piece)[-len(_END_OF_STREAM) :]
                yield piece
        if tail != _END_OF_STREAM:
            raise StorageUnavailable(
                "the rows ended early: the engine failed or a bound was reached"
            )

    async def count(self, source: RowSource, query: RowQuery) -> int:
        """How many rows fulfil the query's predicates."""
        statement = count_rows(source, query, self._origin(source))
        with _translated(of_files=isinstance(source, ExternalSource)):
            result = await self._clickhouse.query(
                statement.sql, statement.parameters, self._reading()
            )
        return int(result.rows[0][0])

    async def version(self, source: RowSource) -> str:
        """Name the content by what identifies its parts or files."""
        match source:
            case ManagedSource():
                statement = part_facts(source)
            case ExternalSource():
                statement = file_facts(self._files(source.location, source.columns))
        with _translated(of_files=isinstance(source, ExternalSource)):
            result = await self._clickhouse.query(
                statement.sql, statement.parameters, self._reading()
            )
        facts = json.dumps(result.rows, separators=(",", ":"))
        return hashlib.sha256(facts.encode()).hexdigest()[:32]

    async def insert(
        self, physical: PhysicalTable, columns: Sequence[str], block: bytes, *, token: str
    ) -> None:
        """Append one block of rows; once per token."""
        with _translated():
            try:
                await self._clickhouse.insert_bytes(
                    physical.table,
                    columns,
                    block,
                    format="ArrowStream",
                    database=physical.database,
                    deduplication_token=token,
                    settings=self._writing(),
                )
            except QueryRejected as error:
                raise SchemaMismatch(f"the rows do not fit the table: {error.message}") from error

    def _origin(self, source: RowSource) -> Statement:
        match source:
            case ManagedSource():
                name = qualified_name(source.physical.database, source.physical.table)
                return Statement(f"{name} FINAL" if source.final else name)
            case ExternalSource():
                return self._files(source.location, source.columns)

    def _files(self, location: str, columns: tuple[Column, ...] | None) -> Statement:
        settings = self._settings
        parameters: dict[str, object] = {
            "s3_url": f"{settings.bucket_url}/{location}",
            "s3_key": settings.access_key,
            "s3_secret": settings.secret_key.reveal(),
        }
        arguments = "{s3_url:String}, {s3_key:String}, {s3_secret:String}, 'Parquet'"
        if columns:
            arguments += ", {s3_structure:String}"
            parameters["s3_structure"] = structure(columns)
        return Statement(f"s3({arguments})", parameters)

    def _reading(self) -> Mapping[str, str | int]:
        memory = self._settings.memory_bytes
        return {
            "readonly": 2,
            "max_execution_time": self._settings.seconds,
            "timeout_overflow_mode": "throw",
            "max_memory_usage": memory,
            "max_bytes_before_external_sort": memory // 2,
            "max_threads": self._settings.threads,
            "cancel_http_readonly_queries_on_client_close": 1,
            "prefer_column_name_to_alias": 1,
            "input_format_parquet_allow_missing_columns": 0,
            "output_format_arrow_low_cardinality_as_dictionary": 0,
            "output_format_arrow_string_as_string": 1,
        }

    def _writing(self) -> Mapping[str, str | int]:
        return {
            "max_execution_time": self._settings.seconds,
            "max_memory_usage": self._settings.memory_bytes,
            # One block of rows is one insert, however many months it spans.
            "max_partitions_per_insert_block": 0,
            "input_format_null_as_default": 0,
            "date_time_overflow_behavior": "throw",
        }

    async def _command(self, sql: str) -> None:
        with _translated():
            await self._clickhouse.command(
                sql, settings={"max_execution_time": _DDL_SECONDS}, use_database=False
            )


def _drop_table(physical: PhysicalTable) -> str:
    return f"DROP TABLE IF EXISTS {qualified_name(physical.database, physical.table)} SYNC"


@contextmanager
def _translated(*, of_files: bool = False) -> Iterator[None]:
    """Turn the engine's errors into the catalog's, and keep to itself what may say too much."""
    try:
        yield
    except TesseraError as error:
        _raise(error, of_files=of_files)


def _raise(error: TesseraError, *, of_files: bool) -> NoReturn:
    if isinstance(error, QueryTooLarge):
        raise LimitReached("the query needs more time or memory than it may have") from error
    if isinstance(error, Unavailable):
        raise StorageUnavailable("ClickHouse does not answer", retry_after=1.0) from error
    if of_files and isinstance(error, QueryRejected | Internal):
        # The text may quote URLs and what the object store said of the request.
        column = _COLUMN_IN_TEXT.search(error.message)
        name = error.metadata.get("name", "")
        where = f", at column {column[1]}" if column else ""
        text = f"no Parquet file of the table's columns is readable at its location{where}"
        raise FilesUnreadable(text, metadata={"cause": name}) from error
    raise error
