"""Model versions: pending, then ready or failed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

from services.catalog.convert import events
from services.catalog.domain.details import ModelDetails
from services.catalog.domain.lineage import LineageEdge, LineageNode, NodeType
from services.catalog.domain.models import ModelFile, ModelVersion, VersionStatus
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import Entity, EntityState, SecurableKey
from services.catalog.errors import AliasNotFound, UploadRunning, VersionEmpty, VersionNotPending
from services.catalog.handlers.context import Context, Page, active
from services.catalog.handlers.models import version_not_found
from services.catalog.handlers.requests import RequestKey, recall, remember
from services.catalog.handlers.storage import Storage
from services.catalog.handlers.tree import merged_tags
from services.catalog.ports import Transaction
from tessera_kit.errors import Unavailable
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.objects import ObjectStore

__all__ = ["VersionDraft", "VersionView", "Versions", "stored_files"]

_log = logging.getLogger(__name__)

MODELS_PREFIX = "models/"
UPLOAD_ENDS_WITHIN = timedelta(hours=6)
"""An upload older than this ended with its process."""


@dataclass(frozen=True, slots=True)
class VersionDraft:
    """What a caller says of a new version."""

    run_id: str = ""
    comment: str = ""
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version with the aliases that point at it."""

    version: ModelVersion
    aliases: tuple[str, ...] = ()


class Versions:
    """Use cases of model versions."""

    def __init__(self, context: Context, storage: Storage, objects: ObjectStore) -> None:
        self._context = context
        self._storage = storage
        self._objects = objects

    async def create(
        self, caller: Principal, key: SecurableKey, draft: VersionDraft, request: RequestKey
    ) -> VersionView:
        """Create the next version of a model, pending.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not create versions of the model.
        """
        context = self._context
        await context.guard.require(caller, key, Privilege.CREATE_MODEL_VERSION)
        async with context.store.write() as tx:
            model = await active(tx, key, lock=True)
            if (done := await recall(tx, caller, request)) is not None:
                return await self._view(tx, model, await _present(tx, model, int(done)))
            number = cast("ModelDetails", model.details).next_version
            now = context.clock.now()
            await tx.entities.replace(
                replace(model, details=ModelDetails(number + 1), updated_at=now, etag=new_etag())
            )
            path = key.full_name.replace(".", "/")
            version = ModelVersion(
                id=new_id(),
                model_id=model.id,
                model_name=key.full_name,
                version=number,
                status=VersionStatus.PENDING_REGISTRATION,
                # The random part keeps late writes of a deleted version out of a later one.
                storage_location=f"{MODELS_PREFIX}{path}/{number}-{secrets.token_hex(6)}/",
                created_by=caller.name,
                created_at=now,
                updated_at=now,
                etag=new_etag(),
                run_id=draft.run_id,
                comment=draft.comment,
                tags=dict(draft.tags or {}),
            )
            await tx.versions.add(version)
            tx.publish(events.version_changed(version, [], caller.name))
            await remember(tx, caller, request, str(number), context.clock)
            await tx.commit()
        return VersionView(version)

    async def get(self, caller: Principal, key: SecurableKey, number: int) -> VersionView:
        """Read a version.

        Raises:
            SecurableNotFound: The model is not there, or not for the caller.
            VersionNotFound: It has no such version.
        """
        await self._context.guard.require_visible(caller, key)
        async with self._context.store.read() as tx:
            model = await active(tx, key)
            return await self._view(tx, model, await _present(tx, model, number))

    async def by_alias(self, caller: Principal, key: SecurableKey, alias: str) -> VersionView:
        """Read the version that an alias points at.

        Raises:
            SecurableNotFound: The model is not there, or not for the caller.
            AliasNotFound: It has no such alias.
        """
        await self._context.guard.require_visible(caller, key)
        async with self._context.store.read() as tx:
            model = await active(tx, key)
            number = (await tx.versions.aliases([model.id])).get(model.id, {}).get(alias)
            if number is None:
                raise AliasNotFound(f"{key} has no alias {alias}")
            return await self._view(tx, model, await _present(tx, model, number))

    async def page(
        self, caller: Principal, key: SecurableKey, below: int | None, size: int
    ) -> Page[VersionView]:
        """Versions of a model, the newest first.

        Raises:
            SecurableNotFound: The model is not there, or not for the caller.
        """
        await self._context.guard.require_visible(caller, key)
        async with self._context.store.read() as tx:
            model = await active(tx, key)
            found = await tx.versions.page(model.id, below=below, limit=size + 1)
            aliases = (await tx.versions.aliases([model.id])).get(model.id, {})
        views = tuple(_with_aliases(version, aliases) for version in found[:size])
        return Page(views, views[-1] if len(found) > size else None)

    async def finalize(
        self, caller: Principal, key: SecurableKey, number: int, failure: str
    ) -> VersionView:
        """End a pending version's upload: ready, or failed for a reason.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not create versions of the model.
            VersionNotFound: It has no such version.
            VersionNotPending: It is ready or failed already; asking for what it is changes nothing.
            UploadRunning: A file is being written.
            VersionEmpty: It has no file.
        """
        context = self._context
        await context.guard.require(caller, key, Privilege.CREATE_MODEL_VERSION)
        async with context.store.read() as tx:
            model = await active(tx, key)
            pending = await _present(tx, model, number)
        objects = await stored_files(self._objects, pending)
        async with context.store.write() as tx:
            model = await active(tx, key, lock=True)
            version = await _present(tx, model, number, lock=True)
            status = VersionStatus.FAILED_REGISTRATION if failure else VersionStatus.READY
            if not version.pending:
                if version.status is status:
                    return await self._view(tx, model, version)
                raise not_pending(version)
            await self._require_no_upload(tx, version)
            files = await _settled_files(tx, version, objects)
            if not failure and not files:
                raise VersionEmpty("a version needs at least one file to become ready")
            now = context.clock.now()
            ended = replace(
                version,
                status=status,
                status_message=failure,
                size_bytes=sum(file.size_bytes for file in files),
                updated_at=now,
                etag=new_etag(),
            )
            await tx.versions.replace(ended)
            view = await self._view(tx, model, ended)
            tx.publish(events.version_changed(ended, list(view.aliases), caller.name))
            if ended.run_id and status is VersionStatus.READY:
                source = LineageNode(NodeType.RUN, ended.run_id)
                target = LineageNode(NodeType.MODEL_VERSION, f"{key.full_name}/{number}")
                tx.publish(events.lineage_observed(LineageEdge(source, target, now, caller.name)))
            await tx.commit()
        return view

    async def update_tags(
        self,
        caller: Principal,
        key: SecurableKey,
        number: int,
        new: Mapping[str, str],
        remove: Collection[str],
    ) -> VersionView:
        """Set and remove tags of a version.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may neither tag nor manage the model.
            VersionNotFound: It has no such version.
        """
        context = self._context
        await context.guard.require_any(caller, key, [Privilege.APPLY_TAG, Privilege.MANAGE])
        async with context.store.write() as tx:
            model = await active(tx, key, lock=True)
            version = await _present(tx, model, number, lock=True)
            changed = replace(
                version,
                tags=merged_tags(version.tags, new, remove),
                etag=new_etag(),
                updated_at=context.clock.now(),
            )
            await tx.versions.replace(changed)
            view = await self._view(tx, model, changed)
            for event in events.tags_changed(
                key.full_name, number, version.tags, changed.tags, caller.name
            ):
                tx.publish(event)
            await tx.commit()
        return view

    async def delete(self, caller: Principal, key: SecurableKey, number: int) -> None:
        """Delete a version with its files and the aliases that point at it.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not manage the model.
            VersionNotFound: It has no such version.
        """
        context = self._context
        await context.guard.require(caller, key, Privilege.MANAGE)
        async with context.store.write() as tx:
            model = await active(tx, key, lock=True)
            version = await _present(tx, model, number, lock=True)
            gone = replace(version, state=EntityState.DELETING, updated_at=context.clock.now())
            await tx.versions.replace(gone)
            aliases = (await tx.versions.aliases([model.id])).get(model.id, {})
            for alias in sorted(a for a, pointed in aliases.items() if pointed == number):
                await tx.versions.remove_alias(model.id, alias)
                tx.publish(events.alias_changed(key.full_name, alias, 0, caller.name))
            await tx.commit()
        try:
            await self._storage.settle_version(gone)
        except Unavailable as error:
            _log.warning("files of %s/%d are removed later: %s", key.full_name, number, error)

    async def _view(self, tx: Transaction, model: Entity, version: ModelVersion) -> VersionView:
        aliases = (await tx.versions.aliases([model.id])).get(model.id, {})
        return _with_aliases(version, aliases)

    async def _require_no_upload(self, tx: Transaction, version: ModelVersion) -> None:
        limit = self._context.clock.now() - UPLOAD_ENDS_WITHIN
        running = [u.path for u in await tx.versions.uploads(version.id) if u.started_at > limit]
        if running:
            raise UploadRunning(f"{running[0]} is being uploaded; finish that first")


def not_pending(version: ModelVersion) -> VersionNotPending:
    """The answer to a change of a version whose files do not change any more."""
    word = version.status.name.partition("_")[0].lower()
    return VersionNotPending(
        f"version {version.version} of {version.model_name} is {word}; its files are settled",
        metadata={"status": version.status.name},
    )


async def _present(
    tx: Transaction, model: Entity, number: int, *, lock: bool = False
) -> ModelVersion:
    version = await tx.versions.get(model.id, number, lock=lock)
    if version is None or version.state is not EntityState.ACTIVE:
        raise version_not_found(model.key, number)
    return version


def _with_aliases(version: ModelVersion, aliases: Mapping[str, int]) -> VersionView:
    names = sorted(alias for alias, number in aliases.items() if number == version.version)
    return VersionView(version, tuple(names))


async def stored_files(objects: ObjectStore, version: ModelVersion) -> list[ModelFile]:
    """The files that the object store holds for a version, with unknown digests."""
    prefix = version.storage_location
    return [
        ModelFile(
            info.key.removeprefix(prefix),
            info.size,
            info.sha256 or "",
            info.modified or version.created_at,
        )
        async for info in objects.list(prefix)
    ]


async def _settled_files(
    tx: Transaction, version: ModelVersion, objects: Sequence[ModelFile]
) -> list[ModelFile]:
    """Make the version's file records those of the object store.

    Programs of the platform write files past this service, so the object store has the last word;
    digests are kept where sizes agree.
    """
    known = {file.path: file for file in await tx.versions.files(version.id)}
    found: list[ModelFile] = []
    for file in objects:
        record = known.pop(file.path, None)
        if record is None or record.size_bytes != file.size_bytes:
            record = file
            await tx.versions.put_file(version.id, file)
        found.append(record)
    for path in known:
        await tx.versions.remove_file(version.id, path)
    return found
