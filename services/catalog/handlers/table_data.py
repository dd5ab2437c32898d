"""Rows in and out of tables, under grants, with bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar, cast

import pyarrow as pa

from services.catalog.domain.arrow_rows import BlockCutter, RowFitter, block_bytes
from services.catalog.domain.details import Column, PhysicalTable, TableDetails
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.rows import RowQuery, check_query
from services.catalog.domain.securables import SecurableKey
from services.catalog.errors import InvalidUpload, LimitReached, NotManaged, of_field
from services.catalog.handlers.context import Context, active
from services.catalog.handlers.pull import PulledFile, ReadTooLarge
from services.catalog.handlers.requests import RequestKey, recall, remember
from services.catalog.ports import ExternalSource, ManagedSource, RowSource, TableEngine
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["TableData"]

Result = TypeVar("Result")
_MOST_BATCH_BYTES = 256 << 20


class TableData:
    """Use cases of rows."""

    def __init__(self, context: Context, engine: TableEngine) -> None:
        self._context = context
        self._engine = engine

    async def read(
        self, caller: Principal, key: SecurableKey, query: RowQuery
    ) -> AsyncIterator[bytes]:
        """Rows as one Arrow IPC stream; everything is checked before the first piece is asked for.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not read the table.
            InvalidPredicate: The query does not fit the table's columns.
            FilesUnreadable, LimitReached, StorageUnavailable: From the engine.
        """
        source, checked = await self._source(caller, key, query)
        return self._engine.read(source, checked)

    async def count(self, caller: Principal, key: SecurableKey, query: RowQuery) -> int:
        """How many rows fulfil the query's predicates. Raises as `read`."""
        source, checked = await self._source(caller, key, query)
        return await self._engine.count(source, checked)

    async def version(self, caller: Principal, key: SecurableKey) -> str:
        """Name the content of a table as it is now.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not read the table.
            FilesUnreadable, StorageUnavailable: From the engine.
        """
        source, _ = await self._source(caller, key, RowQuery())
        return await self._engine.version(source)

    async def _source(
        self, caller: Principal, key: SecurableKey, query: RowQuery
    ) -> tuple[RowSource, RowQuery]:
        await self._context.guard.require(caller, key, Privilege.SELECT)
        details = (await self._table(key))[1]
        return _source_of(details), check_query(query, details.columns)

    async def append(
        self, caller: Principal, key: SecurableKey, request_id: str, chunks: AsyncIterator[bytes]
    ) -> int:
        """Append the rows of one Arrow IPC stream to a managed table, and return how many.

        The rows are written block by block. When that fails midway, the same stream sent again
        under the same request id writes only what is missing.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not write to the table.
            NotManaged: Its rows are files.
            InvalidUpload: The bytes are no Arrow IPC stream.
            SchemaMismatch: The rows do not fit; the violations name the columns.
            LimitReached: A batch is too large.
            StorageUnavailable: The engine does not answer.
        """
        await self._context.guard.require(caller, key, Privilege.MODIFY)
        table_id, details = await self._table(key)
        if details.physical is None:
            raise NotManaged(f"{key} is external; write its files where they lie")
        # Ids are the table's own: what was done under one is known by the table, not by the rows.
        request = RequestKey(f"AppendRows/{table_id}", request_id)
        async with self._context.store.read() as tx:
            if (done := await recall(tx, caller, request)) is not None:
                return int(done)
        token = f"{caller.name}/{request_id or new_id()}"
        count = await self._write(details.physical, details.columns, chunks, token)
        async with self._context.store.write() as tx:
            await remember(tx, caller, request, str(count), self._context.clock)
            await tx.commit()
        return count

    async def _write(
        self,
        physical: PhysicalTable,
        columns: Sequence[Column],
        chunks: AsyncIterator[bytes],
        token: str,
    ) -> int:
        file = PulledFile(chunks, asyncio.get_running_loop(), _MOST_BATCH_BYTES)
        reader = await _decoded(lambda: pa.ipc.open_stream(file))
        fitter = RowFitter(reader.schema, columns)
        cutter = BlockCutter()
        count = blocks = 0

        async def insert(block: pa.Table) -> None:
            nonlocal blocks
            data = await asyncio.to_thread(block_bytes, block)
            await self._engine.insert(physical, fitter.names, data, token=f"{token}/{blocks}")
            blocks += 1

        while (batch := await _decoded(lambda: _next_batch(reader))) is not None:
            fitted = await asyncio.to_thread(fitter.fit, batch)
            count += batch.num_rows
            for block in cutter.push(fitted):
                await insert(block)
        if (block := cutter.rest()) is not None:
            await insert(block)
        return count

    async def _table(self, key: SecurableKey) -> tuple[str, TableDetails]:
        async with self._context.store.read() as tx:
            entity = await active(tx, key)
        return entity.id, cast("TableDetails", entity.details)


def _source_of(details: TableDetails) -> RowSource:
    if details.physical is None:
        return ExternalSource(details.storage_location, details.columns)
    final = bool(details.layout.replacing_version_column)
    return ManagedSource(details.physical, details.columns, final)


def _next_batch(reader: pa.RecordBatchStreamReader) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


async def _decoded(decode: Callable[[], Result]) -> Result:
    """Run a step of Arrow's decoder in a thread, where it may wait for more bytes.

    Raises:
        InvalidUpload: The bytes are no Arrow IPC stream.
        LimitReached: A message says to be larger than what is taken.
    """
    try:
        return await asyncio.to_thread(decode)
    except ReadTooLarge as error:
        text = f"an Arrow message may have {_MOST_BATCH_BYTES >> 20} MiB at most"
        raise LimitReached(text) from error
    except (pa.ArrowException, OSError, EOFError) as error:
        text = f"are no Arrow IPC stream: {str(error)[:200]}"
        raise of_field(InvalidUpload, "arrow_ipc", text) from None
