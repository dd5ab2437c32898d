"""The MLflow door: uploads in parts, signed URLs and ranges; no byte of them passes the server."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.domain.artifacts import ArtifactRoot
from services.tracking.handlers.upload_sweep import UploadSweep
from tessera_kit.clock import ManualClock
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tests.mlflow_door import BOB, Answer, Door

PARTS = "/api/2.0/mlflow-artifacts/mpu"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
SIGNED = "/api/2.0/mlflow-artifacts/presigned"


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door


async def post(door: Door, step: str, folder: str, fields: Any, **named: Any) -> Answer:
    return await door.call("POST", f"{PARTS}/{step}/{folder}", fields, **named)


async def sent_parts(door: Door, upload: dict[str, Any], pieces: list[bytes]) -> list[Any]:
    """Send parts as the object store would get them."""
    [(key, upload_id)] = door.objects.uploads()
    assert upload_id == upload["upload_id"]
    for number, data in enumerate(pieces, 1):
        await door.objects.put_part(key, upload_id, number, data)
    return [
        {"part_number": number, "etag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'}
        for number, data in enumerate(pieces, 1)
    ]


async def test_an_upload_in_parts_becomes_a_file(door: Door) -> None:
    base = f"0/{await door.run()}/artifacts"
    fields = {"path": "/home/ada/model.bin", "num_parts": 2}
    upload = (await post(door, "create", f"{base}/deep", fields)).json()
    assert [one["part_number"] for one in upload["credentials"]] == [1, 2]
    assert all(f"tracking/{base}/deep/model.bin" in one["url"] for one in upload["credentials"])
    pieces = [b"a" * (5 << 20), b"rest"]
    parts = await sent_parts(door, upload, pieces)
    wrong = [parts[0], {"part_number": 2, "etag": "0" * 32}]
    for told, status in ((wrong, 400), ([*parts, {"part_number": 3, "etag": "x"}], 400)):
        fields = {"path": "model.bin", "upload_id": upload["upload_id"], "parts": told}
        assert (await post(door, "complete", f"{base}/deep", fields)).status == status
    fields = {"path": "model.bin", "upload_id": upload["upload_id"], "parts": parts}
    assert (await post(door, "complete", f"{base}/deep", fields)).status == 200
    read = await door.send("GET", f"{FILES}/{base}/deep/model.bin", content_type=None)
    assert read.body == b"".join(pieces)
    gone = await post(door, "complete", f"{base}/deep", fields)
    assert gone.error == (404, "RESOURCE_DOES_NOT_EXIST")


async def test_an_aborted_upload_leaves_nothing(door: Door) -> None:
    base = f"0/{await door.run()}/artifacts"
    upload = (await post(door, "create", base, {"path": r"C:\\x\\a.bin", "num_parts": 1})).json()
    fields = {"path": "a.bin", "upload_id": upload["upload_id"]}
    for _ in range(2):
        assert (await post(door, "abort", base, fields)).status == 200
    assert (door.objects.uploads(), await door.keys()) == ([], [])


@pytest.mark.parametrize(
    ("folder", "name", "count", "status"),
    [
        ("artifacts/..", "x", 1, 400),
        ("artifacts/%252e%252e", "x", 1, 400),
        ("artifacts", "..", 1, 400),
        ("artifacts", "a/", 1, 400),
        ("artifacts", "%2e%2e", 1, 400),
        ("artifacts", "a\x00", 1, 400),
        ("artifacts", "x", 0, 400),
        ("artifacts", "x", 10_001, 400),
        ("other", "x", 1, 404),
    ],
)
async def test_no_upload_leaves_its_run(
    door: Door, folder: str, name: str, count: int, status: int
) -> None:
    run_id = await door.run()
    fields = {"path": name, "num_parts": count}
    assert (await post(door, "create", f"0/{run_id}/{folder}", fields)).status == status
    assert door.objects.uploads() == []


async def test_only_who_may_transfers(door: Door) -> None:
    experiment = await door.experiment()
    run_id = await door.run(experiment)
    base = f"{experiment}/{run_id}/artifacts"
    await door.send("PUT", f"{FILES}/{base}/a", b"secret")
    denied = (403, "PERMISSION_DENIED")
    fields = {"path": "x", "num_parts": 1}
    assert (await post(door, "create", base, fields, token=BOB)).error == denied
    signed = await door.send("GET", f"{SIGNED}/{base}/a", content_type=None, token=BOB)
    assert signed.error == denied
    for name in ("upload", "download"):
        fields = {"run_id": run_id, "path": "a"}
        path = f"artifacts/presigned-{name}-url"
        assert (await door.call("POST", path, fields, token=BOB)).error == denied


async def test_urls_are_signed_for_one_file(door: Door) -> None:
    run_id = await door.run()
    base = f"0/{run_id}/artifacts"
    await door.send("PUT", f"{FILES}/{base}/f/a.txt", b"hello")
    signed = await door.ok("GET", f"{SIGNED}/{base}/f/a.txt")
    assert f"tracking/{base}/f/a.txt" in signed["url"]
    assert signed["file_size"] == 5
    fields = {"run_id": run_id, "path": "f/a.txt"}
    got = await door.ok("POST", "artifacts/presigned-download-url", fields)
    assert got["file_size"] == 5
    put = await door.ok("POST", "artifacts/presigned-upload-url", {**fields, "path": "b.txt"})
    assert put["headers"] == {"Content-Type": "text/plain"}
    for name, wrong, error in (
        ("download", {"path": "none"}, (404, "RESOURCE_DOES_NOT_EXIST")),
        ("download", {"path": "../x"}, (400, "INVALID_PARAMETER_VALUE")),
        ("download", {"expiration": 0}, (400, "INVALID_PARAMETER_VALUE")),
        ("upload", {"expiration": 604_801}, (400, "INVALID_PARAMETER_VALUE")),
        ("upload", {"path": "f"}, (400, "INVALID_PARAMETER_VALUE")),
        ("upload", {"model_id": "m-1"}, (400, "INVALID_PARAMETER_VALUE")),
    ):
        path = f"artifacts/presigned-{name}-url"
        assert (await door.call("POST", path, {**fields, **wrong})).error == error


async def test_a_broken_download_goes_on(door: Door) -> None:
    path = f"{FILES}/0/{await door.run()}/artifacts/a"
    await door.send("PUT", path, b"0123456789")
    whole = await door.send("GET", path, content_type=None)
    assert (whole.status, whole.headers["content-length"]) == (200, "10")
    etag = whole.headers["etag"]
    for asked, state, status, body in (
        ("bytes=4-", etag, 206, b"456789"),
        ("bytes=2-3", etag, 206, b"23"),
        ("bytes=8-99", etag, 206, b"89"),
        ("bytes=-3", etag, 206, b"789"),
        ("bytes=4-", '"earlier"', 200, b"0123456789"),
        ("bytes=3-2", etag, 200, b"0123456789"),
        ("bytes=0-1,4-5", etag, 200, b"0123456789"),
        ("lines=1-2", etag, 200, b"0123456789"),
    ):
        extra = {"range": asked, "if-range": state}
        got = await door.send("GET", path, content_type=None, extra=extra)
        assert (got.status, got.body) == (status, body), asked
        assert got.headers["content-length"] == str(len(body))
    beyond = await door.send("GET", path, content_type=None, extra={"range": "bytes=10-"})
    assert beyond.error == (416, "INVALID_PARAMETER_VALUE")


async def test_uploads_that_nobody_ends_are_dropped_when_they_are_old() -> None:
    objects = InMemoryObjectStore()
    root = ArtifactRoot("0/r/artifacts", "run r")
    files = ObjectArtifacts(objects)
    await files.begin_upload(root, "a.bin", 1, seconds=60)
    foreign = await objects.begin_upload("models/other.bin")
    clock = ManualClock(datetime.now(UTC))
    sweep = UploadSweep(files, clock, timedelta(hours=48))
    assert await sweep.step() == 0
    clock.advance(49 * 3600)
    assert await sweep.step() == 1
    assert await sweep.step() == 0
    assert objects.uploads() == [("models/other.bin", foreign)]
