"""The tree of governed objects: create, read, list, search and change what needs no engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from services.catalog.convert import events
from services.catalog.domain.changes import Changes, Draft
from services.catalog.domain.details import Details, VolumeDetails
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, SecurableKey, SecurableType
from services.catalog.errors import InvalidPrincipal, of_field
from services.catalog.handlers.context import (
    Context,
    Page,
    active,
    busy,
    check_etag,
    check_free,
    new_entity,
    visible_page,
)
from services.catalog.handlers.guard import not_found
from services.catalog.handlers.requests import RequestKey, recall, remember
from tessera_kit.errors import InvalidArgument
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal

__all__ = ["MOST_TAGS", "Tree", "merged_tags"]

MOST_TAGS = 100
_CREATE = {
    SecurableType.CATALOG: Privilege.CREATE_CATALOG,
    SecurableType.SCHEMA: Privilege.CREATE_SCHEMA,
    SecurableType.VOLUME: Privilege.CREATE_VOLUME,
    SecurableType.MODEL: Privilege.CREATE_MODEL,
}
VOLUMES_PREFIX = "volumes/"


def merged_tags(
    tags: Mapping[str, str], new: Mapping[str, str], remove: Collection[str]
) -> dict[str, str]:
    """Tags after setting some and removing others.

    Raises:
        tessera_kit.errors.InvalidArgument: There would be too many.
    """
    found = {key: value for key, value in tags.items() if key not in remove} | dict(new)
    if len(found) > MOST_TAGS:
        raise of_field(InvalidArgument, "set", f"would make more than {MOST_TAGS} tags")
    return found


class Tree:
    """Use cases of catalogs, schemas, volumes and registered models, and what all kinds share."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        caller: Principal,
        key: SecurableKey,
        draft: Draft,
        request: RequestKey,
        details: Details = None,
    ) -> Entity:
        """Create an object that keeps nothing in an engine yet.

        Raises:
            SecurableNotFound: Its parent is not there for the caller.
            PrivilegeMissing: The caller may not create in the parent.
            SecurableExists, Busy: The name is taken, or is being given up.
            RequestIdReused: The request's id was used for another request.
        """
        context = self._context
        parent = key.container
        await context.guard.require(caller, parent, _CREATE[key.type])
        if key.type is SecurableType.VOLUME:
            details = VolumeDetails(f"{VOLUMES_PREFIX}{key.full_name.replace('.', '/')}/")
        async with context.store.write() as tx:
            if await recall(tx, caller, request) is not None:
                return await active(tx, key)
            await active(tx, parent, lock=True)
            if await check_free(tx, key) is not None:
                raise busy(key)
            now = context.clock.now()
            entity = await new_entity(tx, caller, key, draft, now, details=details)
            await tx.entities.add(entity)
            tx.publish(events.securable_created(entity, caller.name))
            await remember(tx, caller, request, entity.id, context.clock)
            await tx.commit()
        return entity

    async def get(self, caller: Principal, key: SecurableKey) -> Entity:
        """Read an object.

        Raises:
            SecurableNotFound: It is not there, or not for the caller.
        """
        await self._context.guard.require_visible(caller, key)
        async with self._context.store.read() as tx:
            return await active(tx, key)

    async def children(
        self, caller: Principal, parent: SecurableKey, kind: SecurableType, after: str, size: int
    ) -> Page[Entity]:
        """Objects of a kind right below `parent` that the caller may see, by name.

        Raises:
            SecurableNotFound: The parent is not there, or not for the caller.
        """
        context = self._context
        await context.guard.require_visible(caller, parent)

        async def fetch(last: Entity | None, limit: int) -> list[Entity]:
            start = after if last is None else last.key.full_name
            async with context.store.read() as tx:
                return await tx.entities.children(parent, kind, after=start, limit=limit)

        return await visible_page(
            fetch, lambda found: context.guard.visible(caller, [e.key for e in found]), size
        )

    async def search(
        self,
        caller: Principal,
        query: str,
        kinds: Collection[SecurableType],
        after: tuple[str, int],
        size: int,
    ) -> Page[Entity]:
        """Objects that hold every word of the query and that the caller may see, by name."""
        context = self._context
        words = query.casefold().split()

        async def fetch(last: Entity | None, limit: int) -> list[Entity]:
            start = after if last is None else (last.key.full_name, int(last.key.type))
            async with context.store.read() as tx:
                return await tx.entities.search(words, kinds, after=start, limit=limit)

        return await visible_page(
            fetch, lambda found: context.guard.visible(caller, [e.key for e in found]), size
        )

    async def update(self, caller: Principal, key: SecurableKey, changes: Changes) -> Entity:
        """Change an object's comment or owner.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not manage it.
            StaleEtag: It changed since the caller read it.
            InvalidPrincipal: The new owner is no principal.
        """
        context = self._context
        await context.guard.require(caller, key, Privilege.MANAGE)
        async with context.store.write() as tx:
            entity = await active(tx, key, lock=True)
            check_etag(entity.etag, changes.etag)
            owner = entity.owner if changes.owner is None else changes.owner
            if owner != entity.owner and await tx.access.principal(owner) is None:
                raise of_field(InvalidPrincipal, "owner", "is no principal")
            changed = replace(
                entity,
                owner=owner,
                comment=entity.comment if changes.comment is None else changes.comment,
                etag=new_etag(),
                updated_at=context.clock.now(),
            )
            await tx.entities.replace(changed)
            tx.publish(events.securable_updated(changed, caller.name))
            if owner != entity.owner:
                tx.publish(events.access_changed("", key))
            await tx.commit()
        return changed

    async def update_tags(
        self,
        caller: Principal,
        key: SecurableKey,
        new: Mapping[str, str],
        remove: Collection[str],
    ) -> Entity:
        """Set and remove tags of an object of any kind.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may neither tag nor manage it.
        """
        context = self._context
        await context.guard.require_any(caller, key, [Privilege.APPLY_TAG, Privilege.MANAGE])
        async with context.store.write() as tx:
            entity = await active(tx, key, lock=True)
            changed = replace(
                entity,
                tags=merged_tags(entity.tags, new, remove),
                etag=new_etag(),
                updated_at=context.clock.now(),
            )
            await tx.entities.replace(changed)
            tx.publish(events.securable_updated(changed, caller.name))
            if key.type is SecurableType.MODEL:
                name = key.full_name
                for event in events.tags_changed(name, 0, entity.tags, changed.tags, caller.name):
                    tx.publish(event)
            await tx.commit()
        return changed

    async def entity(self, key: SecurableKey) -> Entity:
        """Read an object for a use case that has checked the caller.

        Raises:
            SecurableNotFound: It is not there.
        """
        async with self._context.store.read() as tx:
            entity = await tx.entities.get(key)
        if entity is None or not entity.active:
            raise not_found(key)
        return entity
