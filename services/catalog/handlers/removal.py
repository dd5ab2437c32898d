"""Deletes objects, with what they hold when forced."""

from __future__ import annotations

import logging
from dataclasses import replace

from services.catalog.convert import events
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, EntityState, SecurableKey, SecurableType
from services.catalog.errors import NotEmpty
from services.catalog.handlers.context import Context, active, check_etag
from services.catalog.handlers.storage import Storage
from services.catalog.ports import Transaction
from tessera_kit.errors import Unavailable
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal

__all__ = ["Removal"]

_log = logging.getLogger(__name__)


class Removal:
    """Use cases of deletion.

    An object is first marked, in one transaction with all that it holds: from then on nobody sees
    it and its name is not free. Then its storage is removed, and at last its row. What a crash or
    an unreachable engine leaves over is finished by the reconciler.
    """

    def __init__(self, context: Context, storage: Storage) -> None:
        self._context = context
        self._storage = storage

    async def delete(
        self, caller: Principal, key: SecurableKey, *, etag: str = "", force: bool = False
    ) -> None:
        """Delete an object.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not manage it.
            StaleEtag: It changed since the caller read it.
            NotEmpty: It holds something and `force` is not set.
        """
        await self._context.guard.require(caller, key, Privilege.MANAGE)
        async with self._context.store.write() as tx:
            entity = await active(tx, key, lock=True)
            check_etag(entity.etag, etag)
            below = await tx.entities.subtree(key)
            if not force:
                await _require_empty(tx, entity, below)
            marked = [await self._mark(tx, one) for one in (*below, entity)]
            for one in marked:
                tx.publish(events.securable_deleted(one.key, caller.name))
            tx.publish(events.access_changed("", key))
            await tx.commit()
        await self._settle(marked)

    async def _mark(self, tx: Transaction, entity: Entity) -> Entity:
        marked = replace(
            entity,
            state=EntityState.DELETING,
            etag=new_etag(),
            updated_at=self._context.clock.now(),
        )
        await tx.entities.replace(marked)
        return marked

    async def _settle(self, marked: list[Entity]) -> None:
        for entity in marked:
            try:
                await self._storage.settle_deletion(entity)
            except Unavailable as error:
                # It is gone for everybody already; its parent's row waits for it.
                _log.warning("storage of %s is removed later: %s", entity.key, error)
                return


async def _require_empty(tx: Transaction, entity: Entity, below: list[Entity]) -> None:
    if below:
        some = f"{len(below)} objects, {below[-1].key} among them"
        raise NotEmpty(f"{entity.key} holds {some}; force deletes them")
    if entity.key.type is SecurableType.MODEL:
        versions = await tx.versions.page(entity.id, below=None, limit=1)
        if versions:
            raise NotEmpty(f"{entity.key} has versions; force deletes them")
