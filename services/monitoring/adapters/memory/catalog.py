"""The catalog port over tables in memory."""

from __future__ import annotations

from collections.abc import Sequence

from services.monitoring.domain.metric_tables import TableShape
from services.monitoring.domain.monitor import PhysicalTable
from services.monitoring.errors import MetricTableUnfit
from services.monitoring.ports import WatchedTable
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import NotFound
from tessera_kit.rpc.authority import InMemoryAuthority

__all__ = ["InMemoryTableCatalog"]


class InMemoryTableCatalog:
    """Tables by name.

    Args:
        authority: Whose tokens they are, and who may make tables: grants of CREATE TABLE are on the
            schema or on the metastore.
    """

    def __init__(self, authority: InMemoryAuthority) -> None:
        self._authority = authority
        self._tables: dict[str, WatchedTable] = {}

    def add(self, full_name: str, columns: Sequence[str]) -> PhysicalTable:
        """Make a table, and return where its rows are."""
        database, _, table = full_name.rpartition(".")
        physical = PhysicalTable(database.replace(".", "__"), table)
        self._tables[full_name] = WatchedTable(full_name, physical, tuple(columns))
        return physical

    async def get_table(self, full_name: str, token: str) -> WatchedTable:
        """Read a table's definition."""
        await self._authority.authenticate(token)
        if full_name not in self._tables:
            raise NotFound(f"there is no table {full_name}")
        return self._tables[full_name]

    async def ensure_table(self, full_name: str, shape: TableShape, token: str) -> WatchedTable:
        """Make a metric table unless it is there."""
        principal = await self._authority.authenticate(token)
        found = self._tables.get(full_name)
        if found is None:
            await self._authority.require(
                principal,
                securable_pb2.PRIVILEGE_CREATE_TABLE,
                securable_pb2.SECURABLE_TYPE_SCHEMA,
                full_name.rpartition(".")[0],
            )
            self.add(full_name, shape.column_names)
            return self._tables[full_name]
        missing = [name for name in shape.column_names if name not in found.columns]
        if missing:
            raise MetricTableUnfit(
                f"{full_name} exists and is no metric table: it has no column {missing[0]!r}"
            )
        return found
