"""Creates tables: their rows in the catalog and their storage in ClickHouse, in step."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from services.catalog.convert import events
from services.catalog.domain.changes import Draft
from services.catalog.domain.details import TableDetails, TableType, VolumeDetails
from services.catalog.domain.lineage import LineageEdge, LineageNode, NodeType
from services.catalog.domain.paths import check_location, literal_prefix
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import (
    Entity,
    EntityState,
    SecurableKey,
    SecurableType,
)
from services.catalog.domain.tables import (
    TableDefinition,
    check_columns,
    check_layout,
    physical_table,
)
from services.catalog.errors import InvalidLayout, InvalidLocation, of_field
from services.catalog.handlers.context import (
    Context,
    active,
    busy,
    check_free,
    existing_owner,
)
from services.catalog.handlers.locks import KeyLocks
from services.catalog.handlers.requests import RequestKey, recall, remember
from services.catalog.handlers.tree import VOLUMES_PREFIX
from services.catalog.ports import TableEngine
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["TablePolicy", "Tables"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """Where tables may lie."""

    database_prefix: str
    """What the names of all ClickHouse databases start with."""
    external_prefixes: tuple[str, ...]
    """Prefixes of the bucket that external tables may read, beside volumes."""


class Tables:
    """Use cases of creating tables.

    A managed table's name is taken first, in state CREATING, which nobody sees; then ClickHouse makes the
    table; then it becomes active. A crash in between leaves a name without a table's users: the next
    creation of the name takes it over, or the reconciler gives it up.
    """

    def __init__(
        self, context: Context, engine: TableEngine, policy: TablePolicy, locks: KeyLocks
    ) -> None:
        self._context = context
        self._engine = engine
        self._policy = policy
        self._locks = locks

    async def create(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        details: TableDetails,
        request: RequestKey,
    ) -> Entity:
        """Create a table.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not create it there.
            SecurableExists, Busy: The name is taken, or is being created or given up.
            InvalidColumn, InvalidLayout, InvalidLocation: The definition is not accepted.
            FilesUnreadable: No columns are given and the files do not tell.
            StorageUnavailable: ClickHouse does not answer; nothing was created.
        """
        schema = key.parent
        assert schema is not None
        await self._context.guard.require(caller, schema, Privilege.CREATE_TABLE)
        if details.type is TableType.EXTERNAL:
            return await self._create_external(caller, key, draft, details, request)
        if details.storage_location:
            text = "is for external tables; the service places managed ones"
            raise of_field(InvalidLocation, "table.storage_location", text)
        columns = check_columns(details.columns)
        checked = TableDetails(
            type=TableType.MANAGED,
            columns=columns,
            layout=check_layout(details.layout, columns),
            physical=physical_table(self._policy.database_prefix, key.full_name),
        )
        async with self._locks.of(str(key)):
            return await self._create_managed(caller, key, draft, checked, request)

    async def _create_managed(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        details: TableDetails,
        request: RequestKey,
    ) -> Entity:
        found = await self._begin(caller, key, draft, details, request)
        if found.active:
            return found
        assert details.physical is not None
        definition = TableDefinition(details.columns, details.layout, draft.comment)
        try:
            await self._engine.create(details.physical, definition)
        except BaseException:
            await self._give_up(found)
            raise
        return await self._activate(caller, found, request)

    async def _begin(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        details: TableDetails,
        request: RequestKey,
    ) -> Entity:
        """Take the name; the active table when the request was done before."""
        context = self._context
        parent = key.parent
        assert parent is not None
        async with context.store.write() as tx:
            if await recall(tx, caller, request) is not None:
                return await active(tx, key)
            await active(tx, parent, lock=True)
            left_over = await check_free(tx, key)
            if left_over is not None:
                self._may_take_over(left_over)
                await tx.entities.remove(left_over)
            now = context.clock.now()
            entity = Entity(
                id=new_id(),
                key=key,
                owner=await existing_owner(tx, caller, draft.owner),
                comment=draft.comment,
                etag=new_etag(),
                created_at=now,
                updated_at=now,
                tags=dict(draft.tags),
                state=EntityState.CREATING,
                details=details,
            )
            await tx.entities.add(entity)
            await tx.commit()
        return entity

    def _may_take_over(self, entity: Entity) -> None:
        """Let pass a creation or deletion that nobody works on.

        Who works on one holds the name's lock, as the caller does now; so on a store that no other
        process writes to, it was left over. Making the table replaces what is left of it.

        Raises:
            Busy: Another process may work on it.
        """
        if not self._context.store.single_writer:
            raise busy(entity.key)

    async def _give_up(self, entity: Entity) -> None:
        try:
            async with self._context.store.write() as tx:
                current = await tx.entities.get(entity.key, lock=True)
                if current is not None and current.etag == entity.etag:
                    await tx.entities.replace(replace(current, state=EntityState.DELETING))
                    await tx.commit()
        except Exception:
            # The reconciler finds it; the caller must hear of the first failure.
            _log.exception("the name of %s is given up later", entity.key)

    async def _activate(self, caller: Principal, entity: Entity, request: RequestKey) -> Entity:
        context = self._context
        async with context.store.write() as tx:
            current = await tx.entities.get(entity.key, lock=True)
            if current is None or current.etag != entity.etag:
                # Its schema was deleted meanwhile, or another process took the name over.
                raise busy(entity.key)
            created = replace(entity, state=EntityState.ACTIVE)
            await tx.entities.replace(created)
            tx.publish(events.securable_created(created, caller.name))
            await remember(tx, caller, request, created.id, context.clock)
            await tx.commit()
        return created

    async def _create_external(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        details: TableDetails,
        request: RequestKey,
    ) -> Entity:
        context = self._context
        parent = key.parent
        assert parent is not None
        await context.guard.require(caller, parent, Privilege.CREATE_EXTERNAL_TABLE)
        if details.layout != type(details.layout)():
            text = "is for managed tables; files are read as they lie"
            raise of_field(InvalidLayout, "table.layout", text)
        location = check_location(
            details.storage_location, (VOLUMES_PREFIX, *self._policy.external_prefixes)
        )
        volume = await self._readable_volume(caller, location)
        columns = check_columns(details.columns, may_be_empty=True)
        if not columns:
            columns = await self._engine.describe(location)
        async with context.store.write() as tx:
            if await recall(tx, caller, request) is not None:
                return await active(tx, key)
            await active(tx, parent, lock=True)
            if await check_free(tx, key) is not None:
                raise busy(key)
            now = context.clock.now()
            entity = Entity(
                id=new_id(),
                key=key,
                owner=await existing_owner(tx, caller, draft.owner),
                comment=draft.comment,
                etag=new_etag(),
                created_at=now,
                updated_at=now,
                tags=dict(draft.tags),
                details=TableDetails(TableType.EXTERNAL, columns, storage_location=location),
            )
            await tx.entities.add(entity)
            tx.publish(events.securable_created(entity, caller.name))
            if volume is not None:
                source = LineageNode(NodeType.VOLUME, volume.key.full_name)
                target = LineageNode(NodeType.TABLE, key.full_name)
                tx.publish(events.lineage_observed(LineageEdge(source, target, now, caller.name)))
            await remember(tx, caller, request, entity.id, context.clock)
            await tx.commit()
        return entity

    async def _readable_volume(self, caller: Principal, location: str) -> Entity | None:
        """The volume that the location lies in; None when it lies in none.

        Raises:
            InvalidLocation: It lies among volumes but in none that the caller may read.
        """
        if not location.startswith(VOLUMES_PREFIX):
            return None
        parts = literal_prefix(location).split("/")
        names = parts[1:4]
        # The part after the volume's name must have begun before the first wildcard.
        if len(parts) >= 5 and all(names):
            key = SecurableKey(SecurableType.VOLUME, ".".join(names))
            if await self._context.guard.holds(caller, key, Privilege.READ_VOLUME):
                async with self._context.store.read() as tx:
                    entity = await active(tx, key)
                assert isinstance(entity.details, VolumeDetails)
                if location.startswith(entity.details.storage_location):
                    return entity
        text = "must lie in a volume that you may read, named before any wildcard"
        raise of_field(InvalidLocation, "table.storage_location", text)
