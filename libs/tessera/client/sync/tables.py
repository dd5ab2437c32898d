"""Rows of tables, in and out, as Arrow."""

# Made from tessera.client.aio.tables by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from tessera.client.aio.tables import AsyncTables
from tessera.client.portal import Portal
from tessera.client.predicates import Condition


class Tables:
    """Reads and appends rows of catalog tables, under grants."""

    def __init__(self, portal: Portal, wrapped: AsyncTables) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def read(
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
        return self._portal.run(
            self._wrapped.read(
                full_name,
                columns=columns,
                where=where,
                order_by=order_by,
                limit=limit,
                timeout=timeout,
            )
        )

    def append(
        self, full_name: str, rows: pa.Table, *, request_id: str = "", timeout: float | None = 600.0
    ) -> int:
        """Appends rows to a managed table; returns how many.

        Args:
            full_name: The table's three-part name.
            rows: An Arrow table whose columns are among the table's.
            request_id: Rows sent again under the same id are not doubled.
            timeout: Seconds for the whole append.
        """
        return self._portal.run(
            self._wrapped.append(full_name, rows, request_id=request_id, timeout=timeout)
        )

    def count(self, full_name: str, *, where: Iterable[Condition] = ()) -> int:
        """Counts the rows for which all conditions hold."""
        return self._portal.run(self._wrapped.count(full_name, where=where))

    def version(self, full_name: str) -> str:
        """Names the content of a table as it is now: 32 characters, others after every write.

        Jobs record the versions of their input tables; `inference.explain_request` tells them.
        """
        return self._portal.run(self._wrapped.version(full_name))
