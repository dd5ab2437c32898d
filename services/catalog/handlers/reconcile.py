"""Finishes what a crash or an unreachable engine left half done."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

from services.catalog.domain.securables import EntityState
from services.catalog.handlers.context import Context
from services.catalog.handlers.storage import Storage
from services.catalog.handlers.versions import UPLOAD_ENDS_WITHIN
from tessera_kit.errors import Unavailable
from tessera_kit.ids import new_etag

__all__ = ["Reconciler"]

_log = logging.getLogger(__name__)
# Longer than any engine call may take, so that no process is at work on what is this old.
_SETTLED_AFTER = timedelta(seconds=180)
_REQUESTS_KEPT = timedelta(days=7)


class Reconciler:
    """Gives up creations that nobody finishes and finishes deletions."""

    def __init__(self, context: Context, storage: Storage) -> None:
        self._context = context
        self._storage = storage

    async def at_start(self) -> None:
        """Settle what former processes left, before this one does anything."""
        alone = self._context.store.single_writer
        await self.settle(timedelta() if alone else _SETTLED_AFTER)

    async def run(self, seconds: float = 30.0) -> None:
        """Settle from time to time; runs until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.settle(_SETTLED_AFTER)

    async def settle(self, age: timedelta) -> None:
        """Finish every deletion, and give up the creations that began longer ago than `age`."""
        context = self._context
        now = context.clock.now()
        async with context.store.read() as tx:
            entities = await tx.entities.unsettled()
            versions = await tx.versions.deleting()
        try:
            for version in versions:
                await self._storage.settle_version(version)
            # What lies deepest first: a schema's database is dropped after its tables.
            for entity in sorted(entities, key=lambda e: -len(e.key.chain)):
                if entity.state is EntityState.CREATING:
                    if entity.updated_at > now - age:
                        continue
                    async with context.store.write() as tx:
                        current = await tx.entities.get(entity.key, lock=True)
                        if current is None or current.etag != entity.etag:
                            continue
                        entity = replace(current, state=EntityState.DELETING, etag=new_etag())
                        await tx.entities.replace(entity)
                        await tx.commit()
                await self._storage.settle_deletion(entity)
        except Unavailable as error:
            _log.warning("left for later, an engine does not answer: %s", error)
        async with context.store.write() as tx:
            await tx.versions.forget_uploads(now - UPLOAD_ENDS_WITHIN if age else now)
            await tx.requests.forget(now - _REQUESTS_KEPT)
            await tx.commit()
