"""Files to and from an object store, in parts that an interruption does not lose."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from tessera_kit.store.objects import (
    PART_BYTES,
    ObjectChanged,
    ObjectInfo,
    ObjectStore,
    UploadedPart,
    UploadNotFound,
)

__all__ = ["download_file", "upload_file"]

_WRITE_BYTES = 1 << 20
_MOST_PARTS = 10_000


async def upload_file(
    store: ObjectStore,
    key: str,
    path: Path,
    *,
    upload_id: str | None = None,
    on_begin: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Put a file; after an interruption only the parts that the store does not hold are sent.

    The state of an upload is its id and what the store holds: keep the id, nothing else. One part
    is in memory at a time.

    Args:
        store: Where to.
        key: The object's key.
        path: The file; it must not change meanwhile.
        upload_id: Of an earlier attempt with the same file. When that has ended, a new one is
            begun.
        on_begin: Called with the id of a new upload before its first part; not for small files.
        on_progress: Called with the bytes that the store holds so far.

    Returns:
        The object, with its SHA-256.

    Raises:
        ObjectStoreUnavailable: Call again with the id to go on.
        OSError: The file cannot be read.
    """
    size = (await asyncio.to_thread(path.stat)).st_size
    part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))
    if size <= part_bytes:
        info = await store.put(key, await asyncio.to_thread(path.read_bytes))
        _tell(on_progress, size)
        return info
    held, upload_id = await _held_parts(store, key, upload_id)
    if upload_id is None:
        upload_id = await store.begin_upload(key)
        if on_begin is not None:
            on_begin(upload_id)
    digest = hashlib.sha256()
    parts: list[UploadedPart] = []
    for number, start in enumerate(range(0, size, part_bytes), 1):
        data = await asyncio.to_thread(_read, path, start, part_bytes)
        await asyncio.to_thread(digest.update, data)
        part = held.get(number)
        if part is None or not await asyncio.to_thread(_is_same, part, data):
            part = await store.put_part(key, upload_id, number, data)
        parts.append(part)
        _tell(on_progress, start + len(data))
    info = await store.complete_upload(key, upload_id, parts)
    return ObjectInfo(key, info.size, info.etag, digest.hexdigest(), info.modified)


async def download_file(
    store: ObjectStore,
    key: str,
    path: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Write an object to a file.

    Args:
        store: Where from.
        key: The object's key.
        path: The file; its folder must exist.
        resume: Keep the bytes that the file has, as of an interrupted attempt, and add the rest.
        on_progress: Called with the bytes written so far.

    Returns:
        The object, with the SHA-256 of what the file holds now.

    Raises:
        ObjectNotFound: There is no such object.
        ObjectChanged: It was replaced meanwhile.
        OSError: The file cannot be written.
    """
    info = await store.head(key)
    digest = hashlib.sha256()
    have = await asyncio.to_thread(_begin_file, path, info.size if resume else 0, digest)
    gathered = bytearray()
    async for chunk in store.stream(key, have):
        gathered += chunk
        if len(gathered) >= _WRITE_BYTES:
            await asyncio.to_thread(_append, path, bytes(gathered), digest)
            have += len(gathered)
            gathered.clear()
            _tell(on_progress, have)
    await asyncio.to_thread(_append, path, bytes(gathered), digest)
    if have + len(gathered) != info.size:
        raise ObjectChanged(f"{key} was replaced while it was read")
    _tell(on_progress, info.size)
    return ObjectInfo(key, info.size, info.etag, digest.hexdigest(), info.modified)


async def _held_parts(
    store: ObjectStore, key: str, upload_id: str | None
) -> tuple[dict[int, UploadedPart], str | None]:
    """The parts of an upload by number, and its id where it still exists."""
    if upload_id is None:
        return {}, None
    try:
        return {part.number: part for part in await store.list_parts(key, upload_id)}, upload_id
    except UploadNotFound:
        return {}, None


def _is_same(part: UploadedPart, data: bytes) -> bool:
    # A store whose etag is not the MD5 is sent the part again.
    return (
        part.size == len(data) and part.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
    )


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _begin_file(path: Path, keep: int, digest: hashlib._Hash) -> int:
    """Cut a file to at most `keep` bytes and hash them; returns how many there are."""
    with path.open("a+b") as file:
        file.truncate(min(keep, file.tell()))
        file.seek(0)
        while chunk := file.read(_WRITE_BYTES):
            digest.update(chunk)
        return file.tell()


def _append(path: Path, data: bytes, digest: hashlib._Hash) -> None:
    digest.update(data)
    with path.open("ab") as file:
        file.write(data)


def _tell(listener: Callable[[int], None] | None, count: int) -> None:
    if listener is not None:
        listener(count)
