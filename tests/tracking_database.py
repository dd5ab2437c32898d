"""Fresh databases of the tracking service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.tracking.adapters.memory.store import InMemoryPoints, InMemoryStore
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.points import Points
from services.tracking.ports.store import Store
from services.tracking.ports.transaction import Transaction
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.sql import Database
from tests import databases

__all__ = ["STORES", "append", "fresh_database", "fresh_postgres", "opened_store"]

STORES = ("memory", "sqlite", "postgresql")
"""Parameters of a fixture that opens each store in turn."""


async def fresh_database(folder: Path) -> DatabaseConfig:
    """An empty, migrated SQLite database in `folder`."""
    return await databases.fresh_sqlite(folder, "tracking")


async def fresh_postgres(server_url: str) -> DatabaseConfig:
    """The migrated database on a PostgreSQL server, emptied."""
    return await databases.fresh_postgres(server_url, "tracking")


@asynccontextmanager
async def opened_store(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Store]:
    """The empty store that the fixture's parameter names, of `STORES`."""
    if request.param == "memory":
        yield InMemoryStore()
        return
    if request.param == "sqlite":
        config = await fresh_database(folder)
    else:
        config = await fresh_postgres(request.getfixturevalue("postgres_url"))
    async with Database(config) as database:
        yield SqlStore(database, InMemoryPoints())


async def append(store: Store, points: Mapping[str, Points]) -> dict[str, LifecycleStage]:
    """Store points of the runs that are active; return the stages of the runs there are."""

    def task(work: Transaction) -> dict[str, LifecycleStage]:
        stages = work.lock(points)
        active = {one for one, stage in stages.items() if stage is LifecycleStage.ACTIVE}
        work.add_points({one: added for one, added in points.items() if one in active})
        return stages

    return await store.transact(task)
