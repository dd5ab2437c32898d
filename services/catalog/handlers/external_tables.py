"""Creates external tables: Parquet files of the object store, read in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.catalog.convert import events
from services.catalog.domain.changes import Draft
from services.catalog.domain.details import TableDetails, TableLayout
from services.catalog.domain.lineage import LineageEdge, LineageNode, NodeType
from services.catalog.domain.paths import check_location, literal_prefix
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, SecurableKey, SecurableType
from services.catalog.domain.tables import check_columns
from services.catalog.errors import InvalidLayout, InvalidLocation, of_field
from services.catalog.handlers.context import Context, active, busy, check_free, new_entity
from services.catalog.handlers.requests import RequestKey, recall, remember
from services.catalog.handlers.tree import VOLUMES_PREFIX
from services.catalog.ports import TableEngine
from tessera_kit.rpc.identity import Principal

__all__ = ["ExternalTables"]


class ExternalTables:
    """Use case of creating external tables.

    A location must lie in a volume that the caller may read, or below one of the prefixes that the
    installation allows: nobody reads others' volumes or the platform's files by way of a table.

    Args:
        context: Store, guard and clock.
        engine: What reads the files.
        prefixes: Where in the bucket files may lie, beside volumes.
    """

    def __init__(self, context: Context, engine: TableEngine, prefixes: Sequence[str]) -> None:
        self._context = context
        self._engine = engine
        self._prefixes = tuple(prefixes)

    async def create(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        details: TableDetails,
        request: RequestKey,
    ) -> Entity:
        """Create a table; the caller was seen to hold CREATE TABLE.

        Raises: As `Tables.create`.
        """
        context = self._context
        await context.guard.require(caller, key.container, Privilege.CREATE_EXTERNAL_TABLE)
        if details.layout != TableLayout():
            text = "is for managed tables; files are read as they lie"
            raise of_field(InvalidLayout, "table.layout", text)
        location = check_location(details.storage_location, (VOLUMES_PREFIX, *self._prefixes))
        volume = await self._volume(caller, location)
        columns = check_columns(details.columns, may_be_empty=True)
        if not columns:
            columns = await self._engine.describe(location)
        checked = replace(details, columns=columns, physical=None)
        async with context.store.write() as tx:
            if await recall(tx, caller, request) is not None:
                return await active(tx, key)
            await active(tx, key.container, lock=True)
            if await check_free(tx, key) is not None:
                raise busy(key)
            now = context.clock.now()
            entity = await new_entity(tx, caller, key, draft, now, details=checked)
            await tx.entities.add(entity)
            tx.publish(events.securable_created(entity, caller.name))
            if volume is not None:
                source = LineageNode(NodeType.VOLUME, volume.full_name)
                target = LineageNode(NodeType.TABLE, key.full_name)
                tx.publish(events.lineage_observed(LineageEdge(source, target, now, caller.name)))
            await remember(tx, caller, request, entity.id, context.clock)
            await tx.commit()
        return entity

    async def _volume(self, caller: Principal, location: str) -> SecurableKey | None:
        """The volume that the location lies in; None when it lies in none.

        Raises:
            InvalidLocation: It lies among volumes but in none that the caller may read.
        """
        if not location.startswith(VOLUMES_PREFIX):
            return None
        # volumes/<catalog>/<schema>/<volume>/…: all of them before the first wildcard.
        parts = literal_prefix(location).split("/")
        if len(parts) >= 5 and all(parts[1:4]):
            key = SecurableKey(SecurableType.VOLUME, ".".join(parts[1:4]))
            if await self._context.guard.holds(caller, key, Privilege.READ_VOLUME):
                return key
        text = "must lie in a volume that you may read, named before any wildcard"
        raise of_field(InvalidLocation, "table.storage_location", text)
