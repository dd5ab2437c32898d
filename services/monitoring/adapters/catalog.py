"""The catalog port over gRPC, with the token of whoever asks."""

from __future__ import annotations

import grpc

from services.monitoring.domain.metric_tables import TableShape
from services.monitoring.domain.monitor import PhysicalTable
from services.monitoring.errors import MetricTableUnfit, TableNotReadable
from services.monitoring.ports import WatchedTable
from tessera.catalog.v1 import catalog_pb2, catalog_service_pb2, catalog_service_pb2_grpc
from tessera_kit.errors import AlreadyExists
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["GrpcTableCatalog"]


class GrpcTableCatalog:
    """Asks the catalog service.

    Args:
        channel: To the catalog, without a token of its own: each call carries its caller's.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = catalog_service_pb2_grpc.CatalogServiceStub(channel)

    async def get_table(self, full_name: str, token: str) -> WatchedTable:
        """Read a table's definition."""
        request = catalog_service_pb2.GetTableRequest(full_name=full_name)
        try:
            response = await self._stub.GetTable(request, metadata=_bearer(token))
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return _watched(response.table)

    async def ensure_table(self, full_name: str, shape: TableShape, token: str) -> WatchedTable:
        """Make a metric table unless it is there."""
        request = catalog_service_pb2.CreateTableRequest(table=_table(full_name, shape))
        try:
            response = await self._stub.CreateTable(request, metadata=_bearer(token))
            return _watched(response.table)
        except grpc.aio.AioRpcError as error:
            failure = error_from_rpc(error)
            if not isinstance(failure, AlreadyExists):
                raise failure from error
        found = await self.get_table(full_name, token)
        missing = [name for name in shape.column_names if name not in found.columns]
        if missing:
            raise MetricTableUnfit(
                f"{full_name} exists and is no metric table: it has no column {missing[0]!r}"
            )
        return found


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def _watched(table: catalog_pb2.Table) -> WatchedTable:
    if not table.physical.table:
        raise TableNotReadable(f"the rows of {table.full_name} are not in reach of ClickHouse")
    return WatchedTable(
        table.full_name,
        PhysicalTable(table.physical.database, table.physical.table),
        tuple(column.name for column in table.columns),
    )


def _table(full_name: str, shape: TableShape) -> catalog_pb2.Table:
    return catalog_pb2.Table(
        full_name=full_name,
        type=catalog_pb2.TABLE_TYPE_MANAGED,
        columns=[
            catalog_pb2.Column(name=column.name, data_type=column.data_type, comment=column.comment)
            for column in shape.columns
        ],
        layout=catalog_pb2.TableLayout(
            order_by=shape.order_by, replacing_version_column=shape.version_column
        ),
        comment=shape.comment,
    )
