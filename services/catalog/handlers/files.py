"""Files of model versions: written while pending, read as streams."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.catalog.domain.models import ModelFile, ModelVersion, Upload
from services.catalog.domain.paths import check_path
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import EntityState, SecurableKey
from services.catalog.errors import Busy, DigestMismatch, FileNotFound, UploadRunning, of_field
from services.catalog.handlers.context import Context, Page, active
from services.catalog.handlers.models import version_not_found
from services.catalog.handlers.versions import UPLOAD_ENDS_WITHIN, not_pending, stored_files
from services.catalog.ports import Transaction
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.objects import ObjectInfo, ObjectNotFound, ObjectStore

__all__ = ["FileTarget", "Files"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileTarget:
    """Which file an upload writes."""

    model: SecurableKey
    version: int
    path: str
    sha256: str = ""
    """Lower-case hex that the content must have; empty to skip the check."""


class Files:
    """Use cases of a version's files.

    While a file is written its upload is noted, so that the version cannot become ready with
    a file that still changes.
    """

    def __init__(self, context: Context, objects: ObjectStore) -> None:
        self._context = context
        self._objects = objects

    async def upload(
        self, caller: Principal, target: FileTarget, chunks: AsyncIterator[bytes]
    ) -> ModelFile:
        """Write one file of a pending version, new or again.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not create versions of the model.
            VersionNotFound, VersionNotPending: No such version, or its files are settled.
            InvalidPath: The path could leave the version.
            UploadRunning: The file is being written by somebody else.
            DigestMismatch: The content is not that announced; nothing is stored.
        """
        check_path(target.path, "header.path")
        version, upload = await self._begin(caller, target)
        key = version.storage_location + target.path
        stored: ObjectInfo | None = None
        kept = False
        try:
            stored = await self._objects.put(key, chunks)
            if target.sha256 and stored.sha256 != target.sha256.lower():
                text = f"is {target.sha256}, the content's is {stored.sha256}"
                raise of_field(DigestMismatch, "header.sha256", text)
            file = ModelFile(
                target.path, stored.size, stored.sha256 or "", self._context.clock.now()
            )
            kept = await self._end(version, upload, file)
        finally:
            if not kept:
                await self._abandon(upload, key, written=stored is not None)
        if not kept:
            raise Busy("the version was deleted or ended while the file was written")
        return file

    async def _begin(self, caller: Principal, target: FileTarget) -> tuple[ModelVersion, Upload]:
        context = self._context
        await context.guard.require(caller, target.model, Privilege.CREATE_MODEL_VERSION)
        async with context.store.write() as tx:
            version = await self._version(tx, target.model, target.version, lock=True)
            if not version.pending:
                raise not_pending(version)
            now = context.clock.now()
            for other in await tx.versions.uploads(version.id):
                if other.started_at <= now - UPLOAD_ENDS_WITHIN:
                    await tx.versions.remove_upload(other.id)
                elif other.path == target.path:
                    raise UploadRunning(f"{target.path} is being uploaded by somebody else")
            upload = Upload(new_id(), version.id, target.path, now)
            await tx.versions.add_upload(upload)
            await tx.versions.remove_file(version.id, target.path)
            await tx.commit()
        return version, upload

    async def _end(self, version: ModelVersion, upload: Upload, file: ModelFile) -> bool:
        async with self._context.store.write() as tx:
            current = await tx.versions.by_id(version.id, lock=True)
            if current is None or current.state is not EntityState.ACTIVE or not current.pending:
                return False
            await tx.versions.put_file(version.id, file)
            await tx.versions.remove_upload(upload.id)
            await tx.commit()
        return True

    async def _abandon(self, upload: Upload, key: str, *, written: bool) -> None:
        try:
            if written:
                await self._objects.delete(key)
            async with self._context.store.write() as tx:
                await tx.versions.remove_upload(upload.id)
                await tx.commit()
        except Exception:
            # The first failure is the one to tell; the note of the upload ends with its time.
            _log.exception("an upload could not be cleaned up")

    async def download(
        self, caller: Principal, model: SecurableKey, number: int, path: str
    ) -> AsyncIterator[bytes]:
        """The content of a file in pieces; everything is checked before the first one is asked for.

        Raises:
            SecurableNotFound, PrivilegeMissing: The caller may not use the model.
            VersionNotFound, FileNotFound, InvalidPath: There is no such file.
        """
        check_path(path)
        await self._context.guard.require(caller, model, Privilege.EXECUTE)
        async with self._context.store.read() as tx:
            version = await self._version(tx, model, number)
            known = await tx.versions.file(version.id, path)
        key = version.storage_location + path
        if known is None and not await self._written_directly(version, key):
            raise FileNotFound(f"version {number} of {model} has no file {path}")
        return self._objects.stream(key)

    async def _written_directly(self, version: ModelVersion, key: str) -> bool:
        """Whether a pending version has a file that was written past this service."""
        if not version.pending:
            return False
        try:
            await self._objects.head(key)
        except ObjectNotFound:
            return False
        return True

    async def page(
        self, caller: Principal, model: SecurableKey, number: int, after: str, size: int
    ) -> Page[ModelFile]:
        """Files of a version, by path.

        Raises:
            SecurableNotFound: The model is not there, or not for the caller.
            VersionNotFound: It has no such version.
        """
        await self._context.guard.require_visible(caller, model)
        async with self._context.store.read() as tx:
            version = await self._version(tx, model, number)
            limit = None if version.pending else size + 1
            found = await tx.versions.files(version.id, after=after, limit=limit)
        if version.pending:
            known = {file.path for file in found}
            others = await stored_files(self._objects, version)
            found += [f for f in others if f.path > after and f.path not in known]
            found.sort(key=lambda file: file.path)
        items = tuple(found[:size])
        return Page(items, items[-1] if len(found) > size else None)

    async def _version(
        self, tx: Transaction, model: SecurableKey, number: int, *, lock: bool = False
    ) -> ModelVersion:
        entity = await active(tx, model)
        version = await tx.versions.get(entity.id, number, lock=lock)
        if version is None or version.state is not EntityState.ACTIVE:
            raise version_not_found(model, number)
        return version
