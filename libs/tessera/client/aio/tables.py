"""Rows of tables, in and out, as Arrow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import grpc
import pyarrow as pa

from tessera.catalog.v1 import table_data_service_pb2 as data
from tessera.catalog.v1 import table_data_service_pb2_grpc
from tessera.client.aio.calls import call, pieces, stream
from tessera.client.predicates import Condition, predicates

_ROWS_PER_BATCH = 65_536


class AsyncTables:
    """Reads and appends rows of catalog tables, under grants."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = table_data_service_pb2_grpc.TableDataServiceStub(channel)

    async def read(
        self,
        full_name: str,
        *,
        columns: Sequence[str] = (),
        where: Iterable[Condition] = (),
        order_by: Sequence[str] = (),
        limit: int = 0,
        timeout: float | None = 600.0,
    ) -> pa.Table:
        """Reads rows into memory.

        Args:
            full_name: The table's three-part name.
            columns: The columns to read; all when empty.
            where: Conditions that must all hold, as `("month", "<=", 3)`.
            order_by: Columns to order by; a leading "-" turns one around.
            limit: How many rows at most; all when 0.
            timeout: Seconds for the whole read.

        Returns:
            An Arrow table with the columns asked for.

        Raises:
            NotFound: There is no such table.
            PermissionDenied: The caller lacks SELECT on it, or USE on its parents.
            InvalidArgument: A column does not exist.
        """
        request = data.ReadTableRequest(
            full_name=full_name,
            columns=columns,
            predicates=predicates(where),
            order_by=order_by,
            limit=limit,
        )
        buffer = pa.BufferOutputStream()
        async for response in stream(self._stub.ReadTable, request, timeout):
            buffer.write(response.arrow_ipc)
        return pa.ipc.open_stream(buffer.getvalue()).read_all()

    async def append(
        self, full_name: str, rows: pa.Table, *, request_id: str = "", timeout: float | None = 600.0
    ) -> int:
        """Appends rows to a managed table; returns how many.

        Args:
            full_name: The table's three-part name.
            rows: An Arrow table whose columns are among the table's.
            request_id: Rows sent again under the same id are not doubled.
            timeout: Seconds for the whole append.
        """

        async def requests() -> AsyncIterator[data.AppendRowsRequest]:
            header = data.AppendRowsHeader(full_name=full_name, request_id=request_id)
            yield data.AppendRowsRequest(header=header)
            for piece in _ipc_pieces(rows):
                yield data.AppendRowsRequest(arrow_ipc=piece)

        return (await call(self._stub.AppendRows, requests(), timeout)).row_count

    async def count(self, full_name: str, *, where: Iterable[Condition] = ()) -> int:
        """Counts the rows for which all conditions hold."""
        request = data.CountRowsRequest(full_name=full_name, predicates=predicates(where))
        return (await call(self._stub.CountRows, request)).row_count

    async def version(self, full_name: str) -> str:
        """Names the content of a table as it is now: 32 characters, others after every write.

        Jobs record the versions of their input tables; `inference.explain_request` tells them.
        """
        request = data.GetTableVersionRequest(full_name=full_name)
        return (await call(self._stub.GetTableVersion, request)).version


class _Pipe:
    """A file-like object that Arrow writes to and that is emptied between batches."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""


def _ipc_pieces(rows: pa.Table) -> Iterator[bytes]:
    pipe = _Pipe()
    with pa.ipc.new_stream(pa.PythonFile(pipe, mode="w"), rows.schema) as writer:
        for batch in rows.to_batches(max_chunksize=_ROWS_PER_BATCH):
            writer.write_batch(batch)
            yield from pieces(pipe.take())
    yield from pieces(pipe.take())
