"""`tessera.catalog.v1.TableDataService`: rows as Arrow IPC streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.catalog.convert.rows import count_query, read_query
from services.catalog.domain.securables import SecurableKey, SecurableType
from services.catalog.errors import InvalidUpload, of_field
from services.catalog.handlers.table_data import TableData
from services.catalog.servicers.drain import drained
from tessera.catalog.v1 import table_data_service_pb2 as pb
from tessera.catalog.v1 import table_data_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal

__all__ = ["TableDataServicer"]

_PIECE = 1 << 20


def _key(full_name: str) -> SecurableKey:
    return SecurableKey.parse(SecurableType.TABLE, full_name, "table")


class TableDataServicer(rpc.TableDataServiceServicer):
    """Translates; the use cases are in `handlers.table_data`."""

    def __init__(self, table_data: TableData) -> None:
        self._table_data = table_data

    async def ReadTable(
        self, request: pb.ReadTableRequest, context: Any
    ) -> AsyncIterator[pb.ReadTableResponse]:
        """Read rows."""
        pieces = await self._table_data.read(
            current_principal(), _key(request.full_name), read_query(request)
        )
        async for piece in pieces:
            for start in range(0, len(piece), _PIECE):
                yield pb.ReadTableResponse(arrow_ipc=piece[start : start + _PIECE])

    async def AppendRows(
        self, request_iterator: AsyncIterator[pb.AppendRowsRequest], context: Any
    ) -> pb.AppendRowsResponse:
        """Append rows."""
        async with drained(request_iterator):
            first = await anext(aiter(request_iterator), None)
            if first is None or first.WhichOneof("part") != "header":
                raise of_field(InvalidUpload, "header", "must come first")
            header = first.header
            count = await self._table_data.append(
                current_principal(),
                _key(header.full_name),
                header.request_id,
                _pieces(request_iterator),
            )
        return pb.AppendRowsResponse(row_count=count)

    async def CountRows(self, request: pb.CountRowsRequest, context: Any) -> pb.CountRowsResponse:
        """Count rows."""
        count = await self._table_data.count(
            current_principal(), _key(request.full_name), count_query(request)
        )
        return pb.CountRowsResponse(row_count=count)

    async def GetTableVersion(
        self, request: pb.GetTableVersionRequest, context: Any
    ) -> pb.GetTableVersionResponse:
        """Name the content of a table."""
        version = await self._table_data.version(current_principal(), _key(request.full_name))
        return pb.GetTableVersionResponse(version=version)


async def _pieces(messages: AsyncIterator[pb.AppendRowsRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("part") != "arrow_ipc":
            raise of_field(InvalidUpload, "arrow_ipc", "must follow the header, with nothing else")
        if message.arrow_ipc:
            yield message.arrow_ipc
