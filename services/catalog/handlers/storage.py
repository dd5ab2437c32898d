"""Takes away what objects keep in engines, before their rows are removed."""

from __future__ import annotations

from collections.abc import Sequence

from services.catalog.domain.details import TableDetails, VolumeDetails
from services.catalog.domain.models import ModelVersion
from services.catalog.domain.securables import Entity, SecurableType
from services.catalog.domain.tables import physical_database
from services.catalog.handlers.locks import KeyLocks
from services.catalog.ports import Store, TableEngine
from tessera_kit.store.objects import ObjectStore

__all__ = ["Storage"]


class Storage:
    """Removes tables, databases and files; each step may be done again.

    Args:
        prefix: What the names of all databases start with.
    """

    def __init__(
        self, store: Store, engine: TableEngine, objects: ObjectStore, prefix: str
    ) -> None:
        self.locks = KeyLocks()
        """Held, by full name, by who makes or removes a table in ClickHouse."""
        self._store = store
        self._engine = engine
        self._objects = objects
        self._prefix = prefix

    async def clear(self, entity: Entity, versions: Sequence[ModelVersion]) -> None:
        """Remove what one object keeps in engines.

        Raises:
            tessera_kit.errors.Unavailable: An engine does not answer; some of it may be left.
        """
        details = entity.details
        if isinstance(details, TableDetails) and details.physical is not None:
            await self._engine.drop(details.physical)
        elif isinstance(details, VolumeDetails):
            await self.clear_prefix(details.storage_location)
        elif entity.key.type is SecurableType.SCHEMA:
            database = physical_database(self._prefix, entity.key.full_name)
            await self._engine.drop_database(database)
        for version in versions:
            await self.clear_prefix(version.storage_location)

    async def clear_prefix(self, prefix: str) -> None:
        """Remove every file below a prefix."""
        await self._objects.delete_prefix(prefix)

    async def settle_deletion(self, entity: Entity) -> None:
        """Finish the deletion of an object that is marked so: its storage, then its row.

        Raises:
            tessera_kit.errors.Unavailable: An engine does not answer; try again later.
        """
        async with self.locks.of(str(entity.key)):
            async with self._store.read() as tx:
                if not _same(entity, await tx.entities.get(entity.key)):
                    return
                is_model = entity.key.type is SecurableType.MODEL
                versions = await tx.versions.all(entity.id) if is_model else []
            await self.clear(entity, versions)
            async with self._store.write() as tx:
                current = await tx.entities.get(entity.key, lock=True)
                if current is not None and _same(entity, current):
                    await tx.entities.remove(current)
                    await tx.commit()

    async def settle_version(self, version: ModelVersion) -> None:
        """Finish the deletion of a model version that is marked so.

        Raises:
            tessera_kit.errors.Unavailable: The object store does not answer; try again later.
        """
        await self.clear_prefix(version.storage_location)
        async with self._store.write() as tx:
            await tx.versions.remove(version.id)
            await tx.commit()


def _same(entity: Entity, current: Entity | None) -> bool:
    return current is not None and current.id == entity.id and not current.active
