"""Creates managed tables: their rows in the catalog and their storage in ClickHouse, in step."""

from __future__ import annotations

import logging
from dataclasses import replace

from services.catalog.convert import events
from services.catalog.domain.changes import Draft
from services.catalog.domain.details import TableDetails, TableType
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, EntityState, SecurableKey
from services.catalog.domain.tables import (
    TableDefinition,
    check_columns,
    check_layout,
    physical_table,
)
from services.catalog.errors import InvalidLocation, of_field
from services.catalog.handlers.context import (
    Context,
    active,
    busy,
    check_free,
    new_entity,
)
from services.catalog.handlers.external_tables import ExternalTables
from services.catalog.handlers.locks import KeyLocks
from services.catalog.handlers.requests import RequestKey, recall, remember
from services.catalog.ports import TableEngine
from tessera_kit.rpc.identity import Principal

__all__ = ["Tables"]

_log = logging.getLogger(__name__)


class Tables:
    """Use cases of creating tables.

    A managed table's name is taken first, in state CREATING, which nobody sees; then ClickHouse
    makes the table; then it becomes active. What a crash leaves in between is taken over by
    the next creation of the name, or given up by the reconciler.

    Args:
        context: Store, guard and clock.
        engine: Where rows are kept.
        external: Creates tables whose rows are files.
        database_prefix: What the names of all ClickHouse databases start with.
        locks: Held, by kind and name, by who makes or removes a table in the engine.
    """

    def __init__(
        self,
        context: Context,
        engine: TableEngine,
        external: ExternalTables,
        database_prefix: str,
        locks: KeyLocks,
    ) -> None:
        self._context = context
        self._engine = engine
        self._external = external
        self._database_prefix = database_prefix
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
        await self._context.guard.require(caller, key.container, Privilege.CREATE_TABLE)
        if details.type is TableType.EXTERNAL:
            return await self._external.create(caller, key, draft, details, request)
        if details.storage_location:
            text = "is for external tables; the service places managed ones"
            raise of_field(InvalidLocation, "table.storage_location", text)
        columns = check_columns(details.columns)
        definition = TableDefinition(columns, check_layout(details.layout, columns), draft.comment)
        async with self._locks.of(str(key)):
            return await self._create(caller, key, draft, definition, request)

    async def _create(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        definition: TableDefinition,
        request: RequestKey,
    ) -> Entity:
        physical = physical_table(self._database_prefix, key.full_name)
        details = TableDetails(TableType.MANAGED, definition.columns, definition.layout, physical)
        found = await self._begin(caller, key, draft, details, request)
        if found.active:
            return found
        try:
            await self._engine.create(physical, definition)
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
        async with context.store.write() as tx:
            if await recall(tx, caller, request) is not None:
                return await active(tx, key)
            await active(tx, key.container, lock=True)
            left_over = await check_free(tx, key)
            if left_over is not None:
                self._may_take_over(left_over)
                await tx.entities.remove(left_over)
            now = context.clock.now()
            entity = await new_entity(
                tx, caller, key, draft, now, details=details, state=EntityState.CREATING
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
