"""The object store on S3, through aiobotocore: one client for the life of the process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.config import S3Config
from tessera_kit.errors import InvalidArgument, OutOfRange, TesseraError
from tessera_kit.store.objects import (
    LARGEST_GET,
    PART_BYTES,
    ObjectChanged,
    ObjectInfo,
    ObjectLevel,
    ObjectNotFound,
    ObjectStoreFailure,
    ObjectStoreUnavailable,
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

__all__ = ["S3ObjectStore"]

_CHUNK = 256 << 10
_SHA256 = "sha256"
_BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, OSError, BotoCoreError)
_RESUME = RetryPolicy(initial_seconds=0.1, maximum_seconds=2.0, budget_seconds=30.0)


class S3ObjectStore:
    """One bucket of any S3. See `ObjectStore` for what the methods promise.

    It connects when it is first used; every request is tried up to five times.

    Args:
        config: Where, who, and the bucket.
        connections: Most requests under way at once.
    """

    def __init__(self, config: S3Config, *, connections: int = 32) -> None:
        self._config = config
        self._connections = connections
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._signer: Any = None
        self._opening = asyncio.Lock()

    async def start(self) -> None:
        """Make the client now rather than with the first request; sends nothing."""
        await self._opened()

    async def close(self) -> None:
        """Close all connections."""
        self._client = self._signer = None
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def put(
        self, key: str, data: bytes | AsyncIterable[bytes], *, sha256: str = ""
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        check_key(key)
        if isinstance(data, bytes):
            return await self._put_whole(key, data, sha256)
        parts = _parts_of(data)
        first = await anext(parts, b"")
        second = await anext(parts, None)
        if second is None:
            return await self._put_whole(key, first, sha256)
        upload_id = await self.begin_upload(key)
        try:
            return await self._put_parts(key, upload_id, [first, second], parts, sha256)
        except BaseException:
            await asyncio.shield(self.abort_upload(key, upload_id))
            raise

    async def get(self, key: str, *, max_bytes: int = LARGEST_GET) -> bytes:
        """See `ObjectStore.get`."""
        answer = await self._call("get_object", key)
        async with answer["Body"] as body:
            if answer["ContentLength"] > max_bytes:
                raise ObjectTooLarge(
                    f"the object has {answer['ContentLength']} bytes, more than {max_bytes}"
                )
            with _translated(key):
                data: bytes = await body.read()
        return data

    async def stream(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `ObjectStore.stream`."""
        info = await self.head(key)
        if not 0 <= offset <= info.size:
            raise OutOfRange(f"the object has {info.size} bytes; {offset} is beyond them")
        end = info.size if length is None else min(info.size, offset + length)
        failures = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while offset < end:
            try:
                async for chunk in self._range(key, info.etag, offset, end):
                    offset += len(chunk)
                    failures, began = 0, loop.time()
                    yield chunk
                if offset < end:
                    raise ObjectStoreUnavailable("the object store ended its answer early")
            except ObjectStoreUnavailable:
                failures += 1
                delay = _RESUME.delay(failures, loop.time() - began)
                if delay is None:
                    raise
                await asyncio.sleep(delay)

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        answer = await self._call("head_object", key)
        return ObjectInfo(
            key,
            answer["ContentLength"],
            _etag(answer),
            answer.get("Metadata", {}).get(_SHA256),
            answer["LastModified"].astimezone(UTC),
        )

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        client = await self._opened()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self._config.bucket, Prefix=prefix
        )
        with _translated(prefix):
            async for page in pages:
                for entry in page.get("Contents", ()):
                    yield _listed(entry)

    async def list_level(self, prefix: str, *, limit: int = 1000, token: str = "") -> ObjectLevel:
        """See `ObjectStore.list_level`."""
        check_prefix(prefix)
        client = await self._opened()
        more = {"ContinuationToken": token} if token else {}
        try:
            with _translated(prefix):
                answer = await client.list_objects_v2(
                    Bucket=self._config.bucket, Prefix=prefix, Delimiter="/", MaxKeys=limit, **more
                )
        except ObjectStoreFailure as failure:
            if token and _status_of(failure) == 400:
                raise InvalidArgument("the token was not made by this listing") from failure
            raise
        return ObjectLevel(
            [_listed(entry) for entry in answer.get("Contents", ())],
            [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())],
            answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else "",
        )

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        try:
            await self._call("delete_object", key)
        except ObjectNotFound:
            return

    async def delete_prefix(self, prefix: str) -> int:
        """See `ObjectStore.delete_prefix`."""
        check_folder(prefix)
        client = await self._opened()
        count = 0
        batch: list[str] = []
        async for info in self.list(prefix):
            batch.append(info.key)
            if len(batch) == 1000:
                count += await self._delete_many(client, batch)
                batch = []
        return count + await self._delete_many(client, batch)

    async def begin_upload(self, key: str) -> str:
        """See `ObjectStore.begin_upload`."""
        answer = await self._call("create_multipart_upload", key)
        upload_id: str = answer["UploadId"]
        return upload_id

    async def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
        """See `ObjectStore.put_part`."""
        check_part_number(number)
        answer = await self._call(
            "upload_part", key, UploadId=upload_id, PartNumber=number, Body=data
        )
        return UploadedPart(number, len(data), _etag(answer))

    async def list_parts(self, key: str, upload_id: str) -> Sequence[UploadedPart]:
        """See `ObjectStore.list_parts`."""
        entries: dict[int, Mapping[str, Any]] = {}
        marker = 0
        while True:
            answer = await self._call(
                "list_parts", key, UploadId=upload_id, PartNumberMarker=marker
            )
            for entry in answer.get("Parts", ()):
                # SeaweedFS also lists parts that were replaced.
                known = entries.get(entry["PartNumber"])
                if known is None or known["LastModified"] <= entry["LastModified"]:
                    entries[entry["PartNumber"]] = entry
            if not answer.get("IsTruncated"):
                break
            marker = answer["NextPartNumberMarker"]
        return [
            UploadedPart(number, entry["Size"], _etag(entry))
            for number, entry in sorted(entries.items())
        ]

    async def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart]
    ) -> ObjectInfo:
        """See `ObjectStore.complete_upload`."""
        check_parts(parts)
        await self._call(
            "complete_multipart_upload",
            key,
            UploadId=upload_id,
            MultipartUpload={
                "Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
            },
        )
        return await self.head(key)

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """See `ObjectStore.abort_upload`."""
        try:
            await self._call("abort_multipart_upload", key, UploadId=upload_id)
        except (UploadNotFound, ObjectNotFound):
            return

    async def open_uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        """See `ObjectStore.open_uploads`."""
        check_prefix(prefix)
        client = await self._opened()
        marks: dict[str, str] = {}
        while True:
            with _translated(prefix):
                answer = await client.list_multipart_uploads(
                    Bucket=self._config.bucket, Prefix=prefix, MaxUploads=1000, **marks
                )
            for entry in answer.get("Uploads", ()):
                begun = entry["Initiated"].astimezone(UTC)
                yield OpenUpload(entry["Key"], entry["UploadId"], begun)
            if not answer.get("IsTruncated"):
                return
            marks = {
                "KeyMarker": answer["NextKeyMarker"],
                "UploadIdMarker": answer["NextUploadIdMarker"],
            }

    async def signed_get(self, key: str, *, seconds: int, file_name: str) -> str:
        """See `ObjectStore.signed_get`."""
        disposition = f"attachment; filename*=UTF-8''{quote(file_name, safe='')}"
        return await self._signed(
            "get_object", key, seconds, ResponseContentDisposition=disposition
        )

    async def signed_put(self, key: str, *, seconds: int, media_type: str) -> str:
        """See `ObjectStore.signed_put`."""
        return await self._signed("put_object", key, seconds, ContentType=media_type)

    async def signed_parts(
        self, key: str, upload_id: str, count: int, *, seconds: int
    ) -> Sequence[str]:
        """See `ObjectStore.signed_parts`."""
        check_part_number(count)
        urls: list[str] = []
        for number in range(1, count + 1):
            part = {"UploadId": upload_id, "PartNumber": number}
            urls.append(await self._signed("upload_part", key, seconds, **part))
            # Signing waits for nobody: ten thousand parts would hold the loop for seconds.
            await asyncio.sleep(0)
        return urls

    async def _signed(self, operation: str, key: str, seconds: int, **arguments: object) -> str:
        await self._opened()
        url: str = await self._signer.generate_presigned_url(
            operation,
            Params={"Bucket": self._config.bucket, "Key": check_key(key), **arguments},
            ExpiresIn=check_seconds(seconds),
        )
        return url

    async def _put_whole(self, key: str, data: bytes, expected: str) -> ObjectInfo:
        digest = hashlib.sha256(data).hexdigest()
        check_content(digest, expected)
        answer = await self._call("put_object", key, Body=data, Metadata={_SHA256: digest})
        return ObjectInfo(key, len(data), _etag(answer), digest)

    async def _put_parts(
        self,
        key: str,
        upload_id: str,
        first: Sequence[bytes],
        rest: AsyncIterator[bytes],
        expected: str,
    ) -> ObjectInfo:
        """Send parts, the next one being gathered while one is on its way."""
        digest = hashlib.sha256()
        parts: list[UploadedPart] = []
        size = 0
        for data in first:
            digest.update(data)
            size += len(data)
            parts.append(await self.put_part(key, upload_id, len(parts) + 1, data))
        following = await anext(rest, None)
        while following is not None:
            digest.update(following)
            size += len(following)
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(
                    self.put_part(key, upload_id, len(parts) + 1, following)
                )
                gathering = group.create_task(_next_part(rest))
            parts.append(sending.result())
            following = gathering.result()
        check_content(digest.hexdigest(), expected)
        info = await self.complete_upload(key, upload_id, parts)
        return ObjectInfo(key, size, info.etag, digest.hexdigest(), info.modified)

    async def _range(self, key: str, etag: str, offset: int, end: int) -> AsyncIterator[bytes]:
        """Bytes of one version of an object, until its connection breaks."""
        answer = await self._call(
            "get_object", key, Range=f"bytes={offset}-{end - 1}", IfMatch=etag
        )
        with _translated(key):
            async with answer["Body"] as body:
                async for chunk in body.iter_chunks(_CHUNK):
                    yield chunk

    async def _delete_many(self, client: Any, keys: Sequence[str]) -> int:
        if keys:
            with _translated("the objects"):
                await client.delete_objects(
                    Bucket=self._config.bucket,
                    Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
                )
        return len(keys)

    async def _call(self, operation: str, key: str, **arguments: object) -> Mapping[str, Any]:
        """One request for one object."""
        check_key(key)
        client = await self._opened()
        with _translated(key):
            answer: Mapping[str, Any] = await getattr(client, operation)(
                Bucket=self._config.bucket, Key=key, **arguments
            )
        return answer

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                client = await self._client_at(self._config.endpoint)
                public = self._config.public_endpoint
                # A signature holds for one host.
                self._signer = await self._client_at(public) if public else client
                self._client = client
            return self._client

    async def _client_at(self, endpoint: str) -> Any:
        return await self._stack.enter_async_context(
            get_session().create_client(
                "s3",
                endpoint_url=endpoint,
                region_name=self._config.region,
                aws_access_key_id=self._config.access_key,
                aws_secret_access_key=self._config.secret_key.reveal(),
                config=AioConfig(
                    signature_version="s3v4",
                    retries={"mode": "standard", "max_attempts": 5},
                    connect_timeout=5,
                    read_timeout=60,
                    max_pool_connections=self._connections,
                    s3={"addressing_style": "path"},
                    # Not every S3 knows the newer trailing checksums.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        )


async def _parts_of(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Chunks of any size as parts of PART_BYTES, the last one smaller."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        while len(gathered) >= PART_BYTES:
            yield bytes(gathered[:PART_BYTES])
            del gathered[:PART_BYTES]
    if gathered:
        yield bytes(gathered)


async def _next_part(parts: AsyncIterator[bytes]) -> bytes | None:
    return await anext(parts, None)


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _listed(entry: Mapping[str, Any]) -> ObjectInfo:
    """An object as listings tell of it."""
    modified = entry["LastModified"].astimezone(UTC)
    return ObjectInfo(entry["Key"], entry["Size"], _etag(entry), None, modified)


def _status_of(failure: ObjectStoreFailure) -> int:
    cause = failure.__cause__
    return _status(cause) if isinstance(cause, ClientError) else 0


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn what the client raises into errors of the object store."""
    try:
        yield
    except ClientError as error:
        raise _client_error(error, key) from error
    except _BROKEN as error:
        raise ObjectStoreUnavailable("the object store does not answer") from error


def _client_error(error: ClientError, key: str) -> TesseraError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = _status(error)
    if code == "NoSuchUpload":
        return UploadNotFound("the upload has ended")
    if code in {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}:
        return InvalidArgument(f"the upload's parts do not fit: {code}")
    if code in {"NoSuchKey", "404"} or (status == 404 and code != "NoSuchBucket"):
        return ObjectNotFound(f"there is no object {key}")
    if status >= 500 or status == 429 or code in {"SlowDown", "RequestTimeout"}:
        return ObjectStoreUnavailable("the object store is busy")
    if status == 412:
        return ObjectChanged(f"{key} was replaced while it was read")
    return ObjectStoreFailure(f"the object store refused {error.operation_name}: {code} {status}")
