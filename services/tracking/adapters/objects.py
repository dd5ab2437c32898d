"""Artifacts in the object store, below one prefix per run or model.

Its twin in memory is the same class over `tessera_kit.store.objects.InMemoryObjectStore`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from services.tracking.domain.artifacts import Artifact, ArtifactRoot
from services.tracking.errors import ArtifactIsDirectory, ArtifactNotFound, ChecksumMismatch
from services.tracking.ports.artifacts import ArtifactPage, ArtifactUpload, SentPart, WrittenFile
from tessera_kit.errors import InvalidArgument
from tessera_kit.store.objects import (
    ContentMismatch,
    ObjectNotFound,
    ObjectStore,
    UploadedPart,
    check_part_number,
)

__all__ = ["ObjectArtifacts"]


class ObjectArtifacts:
    """Files of runs and models as objects.

    Args:
        objects: Where they are kept.
    """

    ROOT: Final = "tracking"
    """Prefix of all that tracking keeps in the bucket."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def write(
        self, root: ArtifactRoot, path: str, chunks: AsyncIterator[bytes], *, sha256: str = ""
    ) -> WrittenFile:
        """Store a file; nothing is stored when `chunks` raises."""
        await self._must_be_free(root, path)
        source = _Watched(chunks)
        try:
            info = await self._objects.put(_key(root, path), source.pieces(), sha256=sha256)
        except ContentMismatch as error:
            raise ChecksumMismatch(error.message) from None
        except BaseExceptionGroup:
            # A store that reads ahead in tasks wraps the sender's error.
            if source.error is not None:
                raise source.error from None
            raise
        return WrittenFile(info.size, info.sha256 or "")

    async def read(
        self, root: ArtifactRoot, path: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes."""
        try:
            async for chunk in self._objects.stream(_key(root, path), offset, length):
                yield chunk
        except ObjectNotFound:
            raise _not_found(root, path) from None

    async def find(self, root: ArtifactRoot, path: str) -> Artifact:
        """Return a file's size and etag."""
        try:
            info = await self._objects.head(_key(root, path))
        except ObjectNotFound:
            raise _not_found(root, path) from None
        return Artifact(path, is_directory=False, size=info.size, etag=info.etag)

    async def begin_upload(
        self, root: ArtifactRoot, path: str, parts: int, *, seconds: int
    ) -> ArtifactUpload:
        """Begin an upload in parts that the sender puts by URLs."""
        check_part_number(parts)
        await self._must_be_free(root, path)
        key = _key(root, path)
        upload_id = await self._objects.begin_upload(key)
        urls = await self._objects.signed_parts(key, upload_id, parts, seconds=seconds)
        return ArtifactUpload(upload_id, urls)

    async def complete_upload(
        self, root: ArtifactRoot, path: str, upload_id: str, parts: Sequence[SentPart]
    ) -> None:
        """Join the parts into the file, in place of one of that path."""
        await self._must_be_free(root, path)
        key = _key(root, path)
        held = {part.number: part for part in await self._objects.list_parts(key, upload_id)}
        missing = [part.number for part in parts if part.number not in held]
        if missing:
            raise InvalidArgument(f"part {missing[0]} of the upload was not sent")
        told = [UploadedPart(one.number, held[one.number].size, one.etag) for one in parts]
        await self._objects.complete_upload(key, upload_id, told)

    async def abort_upload(self, root: ArtifactRoot, path: str, upload_id: str) -> None:
        """Drop an upload and its parts."""
        await self._objects.abort_upload(_key(root, path), upload_id)

    async def sweep_uploads(self, before: datetime, *, limit: int) -> int:
        """Drop uploads that were begun before a time."""
        dropped = 0
        async for upload in self._objects.open_uploads(f"{self.ROOT}/"):
            if upload.begun >= before:
                continue
            await self._objects.abort_upload(upload.key, upload.upload_id)
            dropped += 1
            if dropped == limit:
                break
        return dropped

    async def upload_url(
        self, root: ArtifactRoot, path: str, *, seconds: int, media_type: str
    ) -> str:
        """Return a URL that stores the file by one PUT."""
        await self._must_be_free(root, path)
        return await self._objects.signed_put(
            _key(root, path), seconds=seconds, media_type=media_type
        )

    async def download_url(self, root: ArtifactRoot, path: str, *, seconds: int) -> str:
        """Return a URL that reads the file."""
        name = path.rpartition("/")[2]
        return await self._objects.signed_get(_key(root, path), seconds=seconds, file_name=name)

    async def children(
        self, root: ArtifactRoot, path: str, *, limit: int, token: str
    ) -> ArtifactPage:
        """Return a page of what lies directly below a path."""
        top = _key(root, "")
        prefix = f"{top}{path}/" if path else top
        level = await self._objects.list_level(prefix, limit=limit, token=token)
        found = [
            Artifact(info.key.removeprefix(top), is_directory=False, size=info.size)
            for info in level.objects
        ]
        found += [
            Artifact(folder.removeprefix(top).removesuffix("/"), is_directory=True)
            for folder in level.folders
        ]
        return ArtifactPage(sorted(found, key=lambda one: one.path), level.next_token)

    async def remove(self, root: ArtifactRoot, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        key = _key(root, path)
        await asyncio.gather(self._objects.delete(key), self._objects.delete_prefix(f"{key}/"))

    async def remove_all(self, root: ArtifactRoot) -> int:
        """Remove all files of an owner; return how many there were."""
        return await self._objects.delete_prefix(_key(root, ""))

    async def _must_be_free(self, root: ArtifactRoot, path: str) -> None:
        """Refuse a path that is a folder or lies below a file: no disk could hold both."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        below, files = await asyncio.gather(
            self._objects.list_level(f"{_key(root, path)}/", limit=1),
            asyncio.gather(*(self._is_file(root, one) for one in above)),
        )
        if below.objects or below.folders:
            raise ArtifactIsDirectory(f"'{path}' is a folder of {root.owner}")
        for one, is_file in zip(above, files, strict=True):
            if is_file:
                raise ArtifactIsDirectory(f"'{one}' is a file of {root.owner}, not a folder")

    async def _is_file(self, root: ArtifactRoot, path: str) -> bool:
        try:
            await self._objects.head(_key(root, path))
        except ObjectNotFound:
            return False
        return True


def _key(root: ArtifactRoot, path: str) -> str:
    return f"{ObjectArtifacts.ROOT}/{root.prefix}/{path}"


def _not_found(root: ArtifactRoot, path: str) -> ArtifactNotFound:
    return ArtifactNotFound(
        f"{root.owner} has no artifact '{path}'", metadata={"owner": root.owner, "path": path}
    )


class _Watched:
    """Bytes on their way, which remember why they ended early."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise
