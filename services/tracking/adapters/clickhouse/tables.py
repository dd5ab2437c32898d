"""Makes the service's tables in ClickHouse when something is first kept there."""

from __future__ import annotations

import asyncio
from typing import Final

from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_migrate import migrate_clickhouse

__all__ = ["Tables"]

_MIGRATIONS: Final = "services.tracking.migrations.clickhouse"


class Tables:
    """The tables, made once: the service starts without ClickHouse.

    Args:
        client: Whose configured database is the service's own.
    """

    def __init__(self, client: ClickHouse) -> None:
        self._client = client
        self._making = asyncio.Lock()
        self._made = False

    async def make(self) -> None:
        """Make the tables that are missing.

        Raises:
            ClickHouseUnavailable: It does not answer.
        """
        if self._made:
            return
        async with self._making:
            if not self._made:
                await migrate_clickhouse(self._client, self._client.database, _MIGRATIONS)
                self._made = True
