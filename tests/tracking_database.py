"""Fresh databases of the tracking service."""

from __future__ import annotations

from pathlib import Path

from tessera_kit.config import DatabaseConfig
from tests import databases

__all__ = ["fresh_database", "fresh_postgres"]


async def fresh_database(folder: Path) -> DatabaseConfig:
    """An empty, migrated SQLite database in `folder`."""
    return await databases.fresh_sqlite(folder, "tracking")


async def fresh_postgres(server_url: str) -> DatabaseConfig:
    """The migrated database on a PostgreSQL server, emptied."""
    return await databases.fresh_postgres(server_url, "tracking")
