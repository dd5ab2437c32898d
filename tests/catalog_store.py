"""What tests of the catalog's stores share: the stores, and things to keep in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.catalog.adapters.memory import InMemoryStore
from services.catalog.adapters.sql import SqlStore
from services.catalog.domain.principals import Principal, PrincipalKind
from services.catalog.domain.securables import Entity, SecurableKey, SecurableType
from services.catalog.ports import Store
from tessera_kit.ids import new_etag, new_id
from tessera_kit.store.sql import Database
from tests.databases import fresh_postgres, fresh_sqlite

NOW = datetime(2013, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


T = SecurableType


STORES = ("memory", "sqlite", "postgresql")


"""Parameters of a fixture that opens each store in turn."""


@asynccontextmanager
async def opened_store(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Store]:
    """The empty store that the fixture's parameter names, of `STORES`."""
    if request.param == "memory":
        yield InMemoryStore()
        return
    if request.param == "sqlite":
        config = await fresh_sqlite(folder, "catalog")
    else:
        config = await fresh_postgres(request.getfixturevalue("postgres_url"), "catalog")
    async with Database(config) as database:
        yield SqlStore(database)


def entity(kind: SecurableType, name: str, **changes: object) -> Entity:
    made = Entity(new_id(), SecurableKey(kind, name), "admin", "", new_etag(), NOW, NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


async def put(store: Store, *entities: Entity) -> None:
    async with store.write() as tx:
        for one in entities:
            await tx.entities.add(one)
        await tx.commit()


async def people(store: Store, *names: str) -> None:
    async with store.write() as tx:
        for name in names:
            await tx.access.put_principal(Principal(name, PrincipalKind.USER, NOW))
        await tx.commit()
