"""What every object store promises: one body over the one in memory and over S3."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from devstack import Stack
from tessera_kit.config import S3Config
from tessera_kit.errors import InvalidArgument, OutOfRange
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.object_files import download_file, upload_file
from tessera_kit.store.objects import (
    PART_BYTES,
    ContentMismatch,
    InvalidKey,
    ObjectNotFound,
    ObjectStore,
    ObjectTooLarge,
    UploadedPart,
    UploadNotFound,
)
from tessera_kit.store.s3 import S3ObjectStore
from tests.helpers import unique_name

BIG = os.urandom(2 * PART_BYTES + 12_345)


async def chunks(data: bytes, size: int = 1_000_003) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


@pytest.fixture
def folder() -> str:
    return unique_name("folder")


class ObjectStoreContract:
    """Subclasses give the fixture `store`."""

    @pytest.mark.parametrize("data", [b"", b"\x00bytes\xff", b"x" * 300_000])
    async def test_bytes_are_read_back(self, store: ObjectStore, folder: str, data: bytes) -> None:
        key = f"{folder}/Grüße und +%&?=.bin"
        put = await store.put(key, data)
        head = await store.head(key)
        assert (put.key, put.size) == (head.key, head.size) == (key, len(data))
        assert put.etag == head.etag
        assert put.sha256 == head.sha256 == hashlib.sha256(data).hexdigest()
        assert await store.get(key) == data

    async def test_a_small_stream_is_one_object(self, store: ObjectStore, folder: str) -> None:
        put = await store.put(f"{folder}/small", chunks(b"abcdef", 2))
        assert put.sha256 == hashlib.sha256(b"abcdef").hexdigest()
        assert await store.get(f"{folder}/small") == b"abcdef"

    async def test_bytes_that_are_not_the_announced_ones_are_not_stored(
        self, store: ObjectStore, folder: str
    ) -> None:
        key, wrong = f"{folder}/announced", hashlib.sha256(b"other").hexdigest()
        for data in (b"abc", chunks(b"abc"), chunks(BIG)):
            with pytest.raises(ContentMismatch, match="SHA-256"):
                await store.put(key, data, sha256=wrong)
        with pytest.raises(ObjectNotFound):
            await store.head(key)
        assert [one async for one in store.open_uploads(folder)] == []
        put = await store.put(key, chunks(BIG), sha256=hashlib.sha256(BIG).hexdigest())
        assert put.size == len(BIG)

    async def test_a_long_stream_is_hashed_and_read_back(
        self, store: ObjectStore, folder: str
    ) -> None:
        key = f"{folder}/big"
        put = await store.put(key, chunks(BIG))
        assert (put.size, put.sha256) == (len(BIG), hashlib.sha256(BIG).hexdigest())
        assert (await store.head(key)).etag == put.etag
        assert await whole(store.stream(key)) == BIG
        assert await whole(store.stream(key, 5_000_000)) == BIG[5_000_000:]
        assert await whole(store.stream(key, 7, 1_000_000)) == BIG[7:1_000_007]
        assert await whole(store.stream(key, len(BIG) - 5, 100)) == BIG[-5:]
        assert await whole(store.stream(key, len(BIG))) == b""

    async def test_a_level_lists_objects_and_folders_once(
        self, store: ObjectStore, folder: str
    ) -> None:
        for name in ("a/x", "a/y/z", "a-b", "a.txt", "b", "c/1", "é/ü x+%.txt"):
            await store.put(f"{folder}/{name}", b"12")
        objects, folders, pages, token = [], [], 0, ""
        while True:
            level = await store.list_level(f"{folder}/", limit=3, token=token)
            assert 1 <= len(level.objects) + len(level.folders) <= 3
            objects += [(info.key, info.size) for info in level.objects]
            folders += level.folders
            pages, token = pages + 1, level.next_token
            if not token:
                break
        assert pages == 2
        assert sorted(objects) == [(f"{folder}/{name}", 2) for name in ("a-b", "a.txt", "b")]
        assert sorted(folders) == [f"{folder}/{name}/" for name in ("a", "c", "é")]
        below = await store.list_level(f"{folder}/a/")
        assert [info.key for info in below.objects] == [f"{folder}/a/x"]
        assert list(below.folders) == [f"{folder}/a/y/"]
        empty = await store.list_level(f"{folder}/none/")
        assert (list(empty.objects), list(empty.folders), empty.next_token) == ([], [], "")

    async def test_a_stream_that_fails_leaves_what_was_there(
        self, store: ObjectStore, folder: str
    ) -> None:
        async def failing() -> AsyncIterator[bytes]:
            yield BIG
            raise RuntimeError("the source broke")

        await store.put(f"{folder}/kept", b"before")
        with pytest.raises(RuntimeError, match="source broke"):
            await store.put(f"{folder}/kept", failing())
        assert await store.get(f"{folder}/kept") == b"before"

    async def test_an_object_is_replaced_whole(self, store: ObjectStore, folder: str) -> None:
        first = await store.put(f"{folder}/one", b"first")
        second = await store.put(f"{folder}/one", b"2")
        assert first.etag != second.etag
        assert await store.get(f"{folder}/one") == b"2"

    async def test_a_missing_object_is_not_found(self, store: ObjectStore, folder: str) -> None:
        with pytest.raises(ObjectNotFound):
            await store.get(f"{folder}/missing")
        with pytest.raises(ObjectNotFound):
            await store.head(f"{folder}/missing")
        with pytest.raises(ObjectNotFound):
            await whole(store.stream(f"{folder}/missing"))
        await store.delete(f"{folder}/missing")

    async def test_limits_are_kept(self, store: ObjectStore, folder: str) -> None:
        await store.put(f"{folder}/ten", b"0123456789")
        with pytest.raises(ObjectTooLarge):
            await store.get(f"{folder}/ten", max_bytes=9)
        assert await store.get(f"{folder}/ten", max_bytes=10) == b"0123456789"
        for offset in (-1, 11):
            with pytest.raises(OutOfRange):
                await whole(store.stream(f"{folder}/ten", offset))

    async def test_keys_are_listed_by_prefix_in_order(
        self, store: ObjectStore, folder: str
    ) -> None:
        for name in ("b/2", "a", "b/1", "c"):
            await store.put(f"{folder}/{name}", name.encode())
        listed = [info async for info in store.list(f"{folder}/")]
        assert [info.key for info in listed] == [
            f"{folder}/{name}" for name in ("a", "b/1", "b/2", "c")
        ]
        assert [info.size for info in listed] == [1, 3, 3, 1]
        assert [info.key async for info in store.list(f"{folder}/b/")] == [
            f"{folder}/b/1",
            f"{folder}/b/2",
        ]
        assert [info async for info in store.list(f"{folder}/nothing")] == []

    async def test_deleting_a_prefix_deletes_only_that(
        self, store: ObjectStore, folder: str
    ) -> None:
        for name in ("b/1", "b/2/3", "bc"):
            await store.put(f"{folder}/{name}", b"x")
        assert await store.delete_prefix(f"{folder}/b/") == 2
        assert [info.key async for info in store.list(folder)] == [f"{folder}/bc"]
        await store.delete(f"{folder}/bc")
        assert [info.key async for info in store.list(folder)] == []
        for prefix in ("", "/", folder):
            with pytest.raises(InvalidKey):
                await store.delete_prefix(prefix)

    async def test_an_upload_is_resumed_from_the_parts_that_are_held(
        self, store: ObjectStore, folder: str
    ) -> None:
        key = f"{folder}/uploaded"
        pieces = [BIG[start : start + PART_BYTES] for start in range(0, len(BIG), PART_BYTES)]
        upload_id = await store.begin_upload(key)
        await store.put_part(key, upload_id, 1, pieces[0])
        await store.put_part(key, upload_id, 3, b"wrong")
        third = await store.put_part(key, upload_id, 3, pieces[2])
        with pytest.raises(ObjectNotFound):
            await store.head(key)

        held = await store.list_parts(key, upload_id)
        assert [part.number for part in held] == [1, 3]
        assert held[0].size == PART_BYTES
        second = await store.put_part(key, upload_id, 2, pieces[1])
        info = await store.complete_upload(key, upload_id, [held[0], second, third])
        assert info.size == len(BIG)
        assert await whole(store.stream(key)) == BIG

    async def test_open_uploads_are_listed_until_they_end(
        self, store: ObjectStore, folder: str
    ) -> None:
        before = datetime.now(UTC) - timedelta(minutes=1)
        begun = [
            (f"{folder}/open/{one}", await store.begin_upload(f"{folder}/open/{one}"))
            for one in "ab"
        ]
        other = await store.begin_upload(f"{folder}/other")
        await store.put_part(*begun[0], 1, b"x")
        found = [one async for one in store.open_uploads(f"{folder}/open/")]
        assert sorted((one.key, one.upload_id) for one in found) == sorted(begun)
        assert all(before < one.begun < before + timedelta(minutes=10) for one in found)
        for key, upload_id in (*begun, (f"{folder}/other", other)):
            await store.abort_upload(key, upload_id)
        assert [one async for one in store.open_uploads(f"{folder}/")] == []

    async def test_an_ended_upload_is_not_found(self, store: ObjectStore, folder: str) -> None:
        key = f"{folder}/aborted"
        upload_id = await store.begin_upload(key)
        await store.put_part(key, upload_id, 1, b"x")
        await store.abort_upload(key, upload_id)
        await store.abort_upload(key, upload_id)
        with pytest.raises(UploadNotFound):
            await store.list_parts(key, upload_id)
        with pytest.raises(ObjectNotFound):
            await store.head(key)

    async def test_signatures_have_bounds(self, store: ObjectStore, folder: str) -> None:
        key = f"{folder}/signed"
        for seconds in (0, 7 * 24 * 3600 + 1):
            with pytest.raises(InvalidArgument):
                await store.signed_get(key, seconds=seconds, file_name="x")
            with pytest.raises(InvalidArgument):
                await store.signed_put(key, seconds=seconds, media_type="text/plain")
            with pytest.raises(InvalidArgument):
                await store.signed_parts(key, "upload", 1, seconds=seconds)
        for count in (0, 10_001):
            with pytest.raises(InvalidArgument):
                await store.signed_parts(key, "upload", count, seconds=60)
        with pytest.raises(InvalidKey):
            await store.signed_get(f"{key}/../other", seconds=60, file_name="x")
        assert len(set(await store.signed_parts(key, "upload", 3, seconds=60))) == 3

    async def test_wrong_parts_are_refused(self, store: ObjectStore, folder: str) -> None:
        key = f"{folder}/wrong"
        upload_id = await store.begin_upload(key)
        part = await store.put_part(key, upload_id, 1, b"x")
        for parts in ([], [part, part]):
            with pytest.raises(InvalidArgument):
                await store.complete_upload(key, upload_id, parts)
        for number in (0, 10_001):
            with pytest.raises(InvalidArgument):
                await store.put_part(key, upload_id, number, b"x")
        assert (await store.complete_upload(key, upload_id, [part])).size == 1

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a\\b",
            "a\0b",
            "a\nb",
            "\ud800",
            "x" * 1025,
        ],
    )
    async def test_keys_that_could_leave_their_place_are_refused(
        self, store: ObjectStore, key: str
    ) -> None:
        with pytest.raises(InvalidKey):
            await store.put(key, b"x")
        with pytest.raises(InvalidKey):
            await store.get(key)
        with pytest.raises(InvalidKey):
            await whole(store.stream(key))
        with pytest.raises(InvalidKey):
            await store.begin_upload(key)
        with pytest.raises(InvalidKey):
            await store.delete(key)


class SourceBroke(Exception):
    """The file could not be read further."""


class UploadFileContract:
    """Subclasses give the fixture `store`."""

    async def test_an_interrupted_upload_sends_only_what_is_missing(
        self, store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = f"{folder}/file"
        path = tmp_path / "file"
        path.write_bytes(BIG)
        sent: list[int] = []
        put_part = store.put_part

        async def counted(key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
            if number == 3 and len(sent) < 3:
                raise SourceBroke
            sent.append(number)
            return await put_part(key, upload_id, number, data)

        monkeypatch.setattr(store, "put_part", counted)
        begun: list[str] = []
        with pytest.raises(SourceBroke):
            await upload_file(store, key, path, on_begin=begun.append)
        progress: list[int] = []
        sent.append(0)
        info = await upload_file(store, key, path, upload_id=begun[0], on_progress=progress.append)
        assert (info.size, info.sha256) == (len(BIG), hashlib.sha256(BIG).hexdigest())
        assert sent == [1, 2, 0, 3]
        assert progress[-1] == len(BIG)
        assert await whole(store.stream(key)) == BIG

    async def test_a_part_that_changed_meanwhile_is_sent_again(
        self, store: ObjectStore, folder: str, tmp_path: Path
    ) -> None:
        key = f"{folder}/file"
        path = tmp_path / "file"
        upload_id = await store.begin_upload(key)
        await store.put_part(key, upload_id, 1, b"x" * PART_BYTES)
        path.write_bytes(BIG)
        info = await upload_file(store, key, path, upload_id=upload_id)
        assert info.sha256 == hashlib.sha256(BIG).hexdigest()
        assert await whole(store.stream(key)) == BIG

    async def test_a_lost_upload_is_begun_anew(
        self, store: ObjectStore, folder: str, tmp_path: Path
    ) -> None:
        key = f"{folder}/file"
        path = tmp_path / "file"
        path.write_bytes(BIG)
        upload_id = await store.begin_upload(key)
        await store.abort_upload(key, upload_id)
        begun: list[str] = []
        await upload_file(store, key, path, upload_id=upload_id, on_begin=begun.append)
        assert begun
        assert begun != [upload_id]
        assert await whole(store.stream(key)) == BIG

    @pytest.mark.parametrize("size", [0, 10])
    async def test_a_small_file_is_put_at_once(
        self, store: ObjectStore, folder: str, tmp_path: Path, size: int
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"y" * size)
        begun: list[str] = []
        info = await upload_file(store, f"{folder}/file", path, on_begin=begun.append)
        assert (info.size, begun) == (size, [])
        assert await store.get(f"{folder}/file") == b"y" * size

    async def test_a_file_is_downloaded_and_resumed(
        self, store: ObjectStore, folder: str, tmp_path: Path
    ) -> None:
        await store.put(f"{folder}/file", BIG)
        path = tmp_path / "file"
        path.write_bytes(BIG[:1_000_000])
        info = await download_file(store, f"{folder}/file", path, resume=True)
        assert path.read_bytes() == BIG
        assert info.sha256 == hashlib.sha256(BIG).hexdigest()
        path.write_bytes(b"z" * (len(BIG) + 1))
        await download_file(store, f"{folder}/file", path)
        assert path.read_bytes() == BIG


class TestInMemoryObjectStore(ObjectStoreContract, UploadFileContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return InMemoryObjectStore()


class TestS3ObjectStore(ObjectStoreContract, UploadFileContract):
    @pytest.fixture
    async def store(self, stack: Stack) -> AsyncIterator[S3ObjectStore]:
        async with S3ObjectStore(S3Config.from_env(stack.environment)) as store:
            yield store

    async def test_a_stream_is_taken_no_faster_than_it_is_stored(
        self, store: S3ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken, stored, furthest = 0, 0, 0
        put_part = store.put_part

        async def counted(key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
            nonlocal stored
            part = await put_part(key, upload_id, number, data)
            stored += len(data)
            return part

        async def source() -> AsyncIterator[bytes]:
            nonlocal taken, furthest
            for _ in range(40):
                yield BIG[: 1 << 20]
                taken += 1 << 20
                furthest = max(furthest, taken - stored)

        monkeypatch.setattr(store, "put_part", counted)
        info = await store.put(f"{folder}/stream", source())
        assert info.size == stored == 40 << 20
        assert furthest <= 3 * PART_BYTES

    async def test_signed_urls_need_nothing_else(
        self, store: ObjectStore, folder: str, stack: Stack
    ) -> None:
        key = f"{folder}/a b+ü%.bin"
        pieces = [BIG[:PART_BYTES], BIG[PART_BYTES:]]
        async with aiohttp.ClientSession() as client:
            upload_id = await store.begin_upload(key)
            parts: list[UploadedPart] = []
            for url, data in zip(
                await store.signed_parts(key, upload_id, 2, seconds=600), pieces, strict=True
            ):
                async with client.put(URL(url, encoded=True), data=io.BytesIO(data)) as answer:
                    assert answer.status == 200
                    etag = answer.headers["etag"].strip('"')
                parts.append(UploadedPart(len(parts) + 1, len(data), etag))
            with pytest.raises((UploadNotFound, InvalidArgument)):
                await store.complete_upload(f"{folder}/other", upload_id, parts)
            await store.complete_upload(key, upload_id, parts)
            got = URL(await store.signed_get(key, seconds=600, file_name="ü.bin"), encoded=True)
            async with client.get(got, headers={"range": "bytes=5-104"}) as answer:
                assert (answer.status, await answer.read()) == (206, BIG[5:105])
                assert answer.headers["content-disposition"].startswith("attachment")
            put = await store.signed_put(f"{folder}/put", seconds=600, media_type="text/plain")
            headers = {"content-type": "text/plain"}
            async with client.put(URL(put, encoded=True), data=b"put", headers=headers) as answer:
                assert answer.status == 200
            assert await store.get(f"{folder}/put") == b"put"
            other = put.replace(f"{folder}/put", f"{folder}/elsewhere")
            async with client.put(URL(other, encoded=True), data=b"x", headers=headers) as answer:
                assert answer.status == 403

    async def test_urls_are_signed_for_where_clients_are(self, stack: Stack) -> None:
        config = replace(
            S3Config.from_env(stack.environment), public_endpoint="https://files.example"
        )
        async with S3ObjectStore(config) as store:
            url = await store.signed_get("a/b", seconds=60, file_name="b")
        assert url.startswith(f"https://files.example/{config.bucket}/a/b?")
