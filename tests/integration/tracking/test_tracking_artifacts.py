"""Artifacts through the gRPC door."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api

from .calls import new_experiment, new_run, refused
from .conftest import Service

CHUNK = 1 << 20


async def parts(
    run_id: str, path: str, content: Sequence[bytes], sha256: str = ""
) -> AsyncIterator[api.UploadArtifactRequest]:
    header = api.UploadArtifactHeader(run_id=run_id, path=path, sha256=sha256)
    yield api.UploadArtifactRequest(header=header)
    for chunk in content:
        yield api.UploadArtifactRequest(chunk=chunk)


async def upload(
    service: Service, run_id: str, path: str, content: bytes = b"x", sha256: str = ""
) -> api.UploadArtifactResponse:
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    return await service.ada.UploadArtifact(parts(run_id, path, chunks, sha256))


async def download(service: Service, run_id: str, path: str) -> bytes:
    request = api.DownloadArtifactRequest(run_id=run_id, path=path)
    pieces = [answer.chunk async for answer in service.ada.DownloadArtifact(request)]
    assert all(0 < len(piece) <= CHUNK for piece in pieces)
    return b"".join(pieces)


async def listed(service: Service, run_id: str, path: str = "", page_size: int = 0) -> list[Any]:
    request = api.ListArtifactsRequest(run_id=run_id, path=path, page_size=page_size)
    found: list[pb.ArtifactInfo] = []
    while True:
        page = await service.ada.ListArtifacts(request)
        assert len(page.artifacts) <= (page_size or 100)
        found += page.artifacts
        if not page.next_page_token:
            return [(one.path, one.is_directory, one.size_bytes) for one in found]
        request.page_token = page.next_page_token


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 17])
async def test_what_is_uploaded_is_downloaded(service: Service, size: int) -> None:
    run = await new_run(service)
    content = os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()
    stored = await upload(service, run.run_id, "model/weights é.bin", content, digest)
    assert stored.sha256 == digest
    assert stored.artifact == pb.ArtifactInfo(path="model/weights é.bin", size_bytes=size)
    assert await download(service, run.run_id, "model/weights é.bin") == content


async def test_a_file_is_replaced_whole_or_not_at_all(service: Service) -> None:
    run = await new_run(service)
    await upload(service, run.run_id, "a", b"first")
    await refused(
        upload(service, run.run_id, "a", b"second", hashlib.sha256(b"other").hexdigest()),
        grpc.StatusCode.INVALID_ARGUMENT,
        "SHA-256",
    )
    assert await download(service, run.run_id, "a") == b"first"
    await upload(service, run.run_id, "a", b"third")
    assert await download(service, run.run_id, "a") == b"third"


async def test_a_sender_that_breaks_off_leaves_nothing(service: Service) -> None:
    run = await new_run(service)

    async def broken() -> AsyncIterator[api.UploadArtifactRequest]:
        async for part in parts(run.run_id, "a", [b"x" * CHUNK]):
            yield part
        call.cancel()
        yield api.UploadArtifactRequest(chunk=b"never")

    call = service.ada.UploadArtifact(broken())
    with pytest.raises(BaseException) as caught:
        await call
    assert type(caught.value).__name__ == "CancelledError"
    assert await listed(service, run.run_id) == []


async def test_levels_are_listed_one_at_a_time(service: Service) -> None:
    run = await new_run(service)
    for path in ("b.txt", "a/x", "a/y/z", "a-b", "c/d"):
        await upload(service, run.run_id, path, b"12")
    for size in (0, 1, 2):
        assert sorted(await listed(service, run.run_id, page_size=size)) == [
            ("a", True, 0),
            ("a-b", False, 2),
            ("b.txt", False, 2),
            ("c", True, 0),
        ]
    assert await listed(service, run.run_id, "a") == [("a/x", False, 2), ("a/y", True, 0)]
    assert await listed(service, run.run_id, "none") == []


async def test_a_file_and_a_folder_do_not_share_a_path(service: Service) -> None:
    run = await new_run(service)
    await upload(service, run.run_id, "a/b")
    for path in ("a", "a/b/c", "a/b/c/d"):
        info = await refused(upload(service, run.run_id, path), grpc.StatusCode.FAILED_PRECONDITION)
        assert info.reason == "ARTIFACT_IS_DIRECTORY"


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "a\\b", "a\nb", "x" * 900, "a/"],
)
async def test_paths_do_not_leave_the_run(service: Service, path: str) -> None:
    run = await new_run(service)
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    await refused(upload(service, run.run_id, path), invalid)
    await refused(download(service, run.run_id, path), invalid)
    await refused(
        service.ada.ListArtifacts(api.ListArtifactsRequest(run_id=run.run_id, path=path)), invalid
    )


async def test_uploads_in_the_wrong_order_are_refused(service: Service) -> None:
    run = await new_run(service)

    async def messages(*sent: api.UploadArtifactRequest) -> AsyncIterator[Any]:
        for one in sent:
            yield one

    header = api.UploadArtifactRequest(header=api.UploadArtifactHeader(run_id=run.run_id, path="a"))
    chunk = api.UploadArtifactRequest(chunk=b"x")
    for sent in ((), (chunk,), (header, chunk, header), (header, api.UploadArtifactRequest())):
        info = await refused(
            service.ada.UploadArtifact(messages(*sent)), grpc.StatusCode.INVALID_ARGUMENT
        )
        assert info.reason == "INVALID_UPLOAD"
    assert await listed(service, run.run_id) == []


async def test_artifacts_follow_their_run(service: Service) -> None:
    run = await new_run(service)
    await upload(service, run.run_id, "a", b"kept")
    await service.ada.DeleteRun(api.DeleteRunRequest(run_id=run.run_id))
    await refused(upload(service, run.run_id, "b"), grpc.StatusCode.FAILED_PRECONDITION)
    assert await download(service, run.run_id, "a") == b"kept"
    missing = grpc.StatusCode.NOT_FOUND
    await refused(download(service, run.run_id, "b"), missing, "has no artifact 'b'")
    await refused(upload(service, "nope", "b"), missing)


async def test_artifacts_need_the_grants_of_their_experiment(service: Service) -> None:
    made = await new_experiment(service)
    run = await new_run(service, made.experiment_id)
    await upload(service, run.run_id, "a")
    denied = grpc.StatusCode.PERMISSION_DENIED
    await refused(service.bob.UploadArtifact(parts(run.run_id, "b", [b"x"])), denied, "MODIFY")
    call = service.bob.DownloadArtifact(api.DownloadArtifactRequest(run_id=run.run_id, path="a"))
    with pytest.raises(grpc.aio.AioRpcError, match="SELECT"):
        await call.read()
