"""The object store's twin inside one process."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from tessera_kit.errors import (
    InvalidArgument,
    OutOfRange,
)
from tessera_kit.ids import new_id
from tessera_kit.store.objects import (
    LARGEST_GET,
    ObjectInfo,
    ObjectLevel,
    ObjectNotFound,
    ObjectTooLarge,
    OpenUpload,
    UploadedPart,
    UploadNotFound,
    check_content,
    check_folder,
    check_key,
    check_part_number,
    check_parts,
    check_prefix,
    check_seconds,
)

__all__ = ["InMemoryObjectStore"]


class InMemoryObjectStore:
    """An object store inside one process, with the rules of S3 on parts and ranges."""

    def __init__(self, *, smallest_part: int = 5 << 20) -> None:
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._uploads: dict[tuple[str, str], dict[int, bytes]] = {}
        self._begun: dict[tuple[str, str], datetime] = {}
        self._smallest_part = smallest_part

    async def put(
        self, key: str, data: bytes | AsyncIterable[bytes], *, sha256: str = ""
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        check_key(key)
        if not isinstance(data, bytes):
            data = b"".join([chunk async for chunk in data])
        check_content(hashlib.sha256(data).hexdigest(), sha256)
        return self._store(key, data)

    async def get(self, key: str, *, max_bytes: int = LARGEST_GET) -> bytes:
        """See `ObjectStore.get`."""
        data, info = self._found(key)
        if info.size > max_bytes:
            raise ObjectTooLarge(f"the object has {info.size} bytes, more than {max_bytes}")
        return data

    async def stream(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `ObjectStore.stream`."""
        data, info = self._found(key)
        if not 0 <= offset <= info.size:
            raise OutOfRange(f"the object has {info.size} bytes; {offset} is beyond them")
        end = info.size if length is None else min(info.size, offset + length)
        for start in range(offset, end, 1 << 16):
            yield data[start : min(start + (1 << 16), end)]

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        return self._found(key)[1]

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        for key in sorted(key for key in self._objects if key.startswith(prefix)):
            yield self._objects[key][1]

    async def list_level(self, prefix: str, *, limit: int = 1000, token: str = "") -> ObjectLevel:
        """See `ObjectStore.list_level`."""
        found: dict[str, ObjectInfo | None] = {}
        async for info in self.list(prefix):
            name, slash, _ = info.key.removeprefix(prefix).partition("/")
            found[prefix + name + slash] = None if slash else info
        names = sorted(name for name in found if name > token)
        page = names[:limit]
        return ObjectLevel(
            [one for name in page if (one := found[name]) is not None],
            [name for name in page if found[name] is None],
            page[-1] if len(names) > limit else "",
        )

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._objects.pop(check_key(key), None)

    async def delete_prefix(self, prefix: str) -> int:
        """See `ObjectStore.delete_prefix`."""
        check_folder(prefix)
        keys = [key for key in self._objects if key.startswith(prefix)]
        for key in keys:
            del self._objects[key]
        return len(keys)

    async def begin_upload(self, key: str) -> str:
        """See `ObjectStore.begin_upload`."""
        upload_id = new_id()
        self._uploads[check_key(key), upload_id] = {}
        self._begun[key, upload_id] = datetime.now(UTC)
        return upload_id

    async def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
        """See `ObjectStore.put_part`."""
        check_part_number(number)
        self._upload(key, upload_id)[number] = data
        return _part(number, data)

    async def list_parts(self, key: str, upload_id: str) -> Sequence[UploadedPart]:
        """See `ObjectStore.list_parts`."""
        return [_part(*part) for part in sorted(self._upload(key, upload_id).items())]

    async def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart]
    ) -> ObjectInfo:
        """See `ObjectStore.complete_upload`."""
        held = self._upload(key, upload_id)
        check_parts(parts)
        for part in parts:
            if part.number not in held or _part(part.number, held[part.number]).etag != part.etag:
                raise InvalidArgument(f"part {part.number} is not held")
        if any(part.size < self._smallest_part for part in parts[:-1]):
            raise InvalidArgument("a part but the last is too small")
        del self._uploads[key, upload_id]
        del self._begun[key, upload_id]
        return self._store(key, b"".join(held[part.number] for part in parts))

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """See `ObjectStore.abort_upload`."""
        self._uploads.pop((check_key(key), upload_id), None)
        self._begun.pop((key, upload_id), None)

    async def open_uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        """See `ObjectStore.open_uploads`."""
        check_prefix(prefix)
        for key, upload_id in list(self._uploads):
            if key.startswith(prefix):
                yield OpenUpload(key, upload_id, self._begun[key, upload_id])

    def uploads(self) -> Sequence[tuple[str, str]]:
        """The keys and ids of uploads that have not ended."""
        return list(self._uploads)

    async def signed_get(self, key: str, *, seconds: int, file_name: str) -> str:
        """See `ObjectStore.signed_get`; nobody answers these URLs."""
        return _unanswered(key, seconds, file_name=file_name)

    async def signed_put(self, key: str, *, seconds: int, media_type: str) -> str:
        """See `ObjectStore.signed_put`; nobody answers these URLs."""
        return _unanswered(key, seconds, media_type=media_type)

    async def signed_parts(
        self, key: str, upload_id: str, count: int, *, seconds: int
    ) -> Sequence[str]:
        """See `ObjectStore.signed_parts`; nobody answers these URLs."""
        check_part_number(count)
        return [
            _unanswered(key, seconds, upload=upload_id, part=number)
            for number in range(1, count + 1)
        ]

    def _store(self, key: str, data: bytes) -> ObjectInfo:
        digest = hashlib.sha256(data).hexdigest()
        info = ObjectInfo(key, len(data), digest[:32], digest, datetime.now(UTC))
        self._objects[key] = (data, info)
        return info

    def _found(self, key: str) -> tuple[bytes, ObjectInfo]:
        found = self._objects.get(check_key(key))
        if found is None:
            raise ObjectNotFound(f"there is no object {key}")
        return found

    def _upload(self, key: str, upload_id: str) -> dict[int, bytes]:
        upload = self._uploads.get((check_key(key), upload_id))
        if upload is None:
            raise UploadNotFound("the upload has ended")
        return upload


def _unanswered(key: str, seconds: int, **what: object) -> str:
    query = urlencode({**what, "seconds": check_seconds(seconds)})
    return f"memory:///{quote(check_key(key))}?{query}"


def _part(number: int, data: bytes) -> UploadedPart:
    return UploadedPart(number, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
