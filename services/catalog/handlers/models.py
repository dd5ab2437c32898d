"""Registered models with their aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.catalog.convert import events
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, EntityState, SecurableKey
from services.catalog.errors import AliasNotFound, VersionNotFound
from services.catalog.handlers.context import Context, active
from services.catalog.ports import Transaction
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal

__all__ = ["Aliases", "version_not_found"]


def version_not_found(model: SecurableKey, version: int) -> VersionNotFound:
    """The answer for a version that is not there."""
    metadata = {"model_name": model.full_name, "version": str(version)}
    return VersionNotFound(f"{model} has no version {version}", metadata=metadata)


class Aliases:
    """Use cases of aliases."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def of(self, models: Sequence[Entity]) -> Mapping[str, Mapping[str, int]]:
        """Aliases by model id."""
        async with self._context.store.read() as tx:
            return await tx.versions.aliases([model.id for model in models])

    async def set(
        self, caller: Principal, key: SecurableKey, alias: str, version: int
    ) -> tuple[Entity, Mapping[str, int]]:
        """Point an alias at a version, and return the model with its aliases.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not manage the model.
            VersionNotFound: The model has no such version.
        """
        await self._context.guard.require(caller, key, Privilege.MANAGE)
        async with self._context.store.write() as tx:
            model = await active(tx, key, lock=True)
            found = await tx.versions.get(model.id, version, lock=True)
            if found is None or found.state is not EntityState.ACTIVE:
                raise version_not_found(key, version)
            await tx.versions.set_alias(model.id, alias, version)
            return await self._changed(tx, caller, model, alias, version)

    async def delete(self, caller: Principal, key: SecurableKey, alias: str) -> None:
        """Remove an alias.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not manage the model.
            AliasNotFound: The model has no such alias.
        """
        await self._context.guard.require(caller, key, Privilege.MANAGE)
        async with self._context.store.write() as tx:
            model = await active(tx, key, lock=True)
            if not await tx.versions.remove_alias(model.id, alias):
                raise AliasNotFound(f"{key} has no alias {alias}")
            await self._changed(tx, caller, model, alias, 0)

    async def _changed(
        self, tx: Transaction, caller: Principal, model: Entity, alias: str, version: int
    ) -> tuple[Entity, Mapping[str, int]]:
        changed = replace(model, etag=new_etag(), updated_at=self._context.clock.now())
        await tx.entities.replace(changed)
        tx.publish(events.alias_changed(model.key.full_name, alias, version, caller.name))
        aliases = await tx.versions.aliases([model.id])
        await tx.commit()
        return changed, aliases.get(model.id, {})
