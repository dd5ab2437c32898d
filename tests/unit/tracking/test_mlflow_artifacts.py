"""The MLflow door: artifacts of runs and models, and that no path leaves them."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mlflow_door import BOB, Answer, Door

ROOT = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door


async def put(door: Door, path: str, content: bytes = b"x", **named: str) -> Answer:
    return await door.send("PUT", f"{ROOT}/{path}", content, content_type="text/plain", **named)


async def get(door: Door, path: str, **named: str) -> Answer:
    return await door.send("GET", f"{ROOT}/{path}", content_type=None, **named)


async def test_files_are_written_listed_read_and_removed(door: Door) -> None:
    run_id = await door.run()
    base = f"0/{run_id}/artifacts"
    for name in ("a.txt", "folder/b.bin", "folder/deep/c%20d.html", "na%C3%AFve.txt"):
        assert (await put(door, f"{base}/{name}", name.encode())).status == 200
    listed = await door.ok("GET", "artifacts/list", {"run_id": run_id})
    assert listed["root_uri"] == f"mlflow-artifacts:/{base}"
    assert listed["files"] == [
        {"path": "a.txt", "is_dir": False, "file_size": 5},
        {"path": "folder", "is_dir": True},
        {"path": "naïve.txt", "is_dir": False, "file_size": 14},
    ]
    below = await door.ok("GET", "artifacts/list", {"run_id": run_id, "path": "folder"})
    assert [one["path"] for one in below["files"]] == ["folder/b.bin", "folder/deep"]
    proxied = await door.ok("GET", ROOT, {"path": f"{base}/folder"})
    assert [one["path"] for one in proxied["files"]] == ["b.bin", "deep"]
    read = await get(door, f"{base}/folder/deep/c%20d.html")
    assert read.body == b"folder/deep/c%20d.html"
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-disposition"].startswith("attachment")
    assert (await door.send("DELETE", f"{ROOT}/{base}/folder")).status == 200
    assert (await get(door, f"{base}/folder/b.bin")).error == (404, "RESOURCE_DOES_NOT_EXIST")


async def test_an_empty_file_is_a_file(door: Door) -> None:
    base = f"0/{await door.run()}/artifacts"
    await put(door, f"{base}/empty", b"")
    assert (await get(door, f"{base}/empty")).body == b""


async def test_models_have_files_too(door: Door) -> None:
    model = (await door.ok("POST", "logged-models", {"experiment_id": "0"}))["model"]["info"]
    base = f"0/models/{model['model_id']}/artifacts"
    assert model["artifact_uri"] == f"mlflow-artifacts:/{base}"
    assert (await put(door, f"{base}/MLmodel", b"flavors:")).status == 200
    assert (await get(door, f"{base}/MLmodel")).body == b"flavors:"
    path = f"logged-models/{model['model_id']}/artifacts/directories"
    assert (await door.ok("GET", path))["files"] == [
        {"path": "MLmodel", "is_dir": False, "file_size": 8}
    ]
    assert (await put(door, "0/models/m-0/artifacts/x")).error[0] == 404


async def test_only_who_may_reads_and_writes(door: Door) -> None:
    experiment = await door.experiment()
    base = f"{experiment}/{await door.run(experiment)}/artifacts"
    await put(door, f"{base}/secret")
    assert (await get(door, f"{base}/secret", token=BOB)).error == (403, "PERMISSION_DENIED")
    assert (await put(door, f"{base}/secret", token=BOB)).error == (403, "PERMISSION_DENIED")
    gone = await door.send("DELETE", f"{ROOT}/{base}/secret", token=BOB)
    assert gone.error == (403, "PERMISSION_DENIED")


async def test_an_experiment_cannot_be_named_for_another_one_s_run(door: Door) -> None:
    experiment = await door.experiment()
    run_id = await door.run(experiment)
    await put(door, f"{experiment}/{run_id}/artifacts/a")
    assert (await get(door, f"0/{run_id}/artifacts/a")).error[0] == 404
    assert (await put(door, f"0/{run_id}/artifacts/a")).error[0] == 404


async def test_a_deleted_run_takes_no_files_and_shows_its_own(door: Door) -> None:
    run_id = await door.run()
    base = f"0/{run_id}/artifacts"
    await put(door, f"{base}/a")
    await door.ok("POST", "runs/delete", {"run_id": run_id})
    assert (await put(door, f"{base}/b")).error == (400, "INVALID_PARAMETER_VALUE")
    assert (await get(door, f"{base}/a")).body == b"x"


ESCAPES = (
    "../../other",
    "a/../../b",
    "..",
    ".",
    "a//b",
    "/etc/passwd",
    "a/./b",
    "..\\windows",
    "a\\b",
    "C:/windows",
    "c:windows",
    "a\x00b",
    "a\nb",
    "\x7f",
)


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
async def test_no_path_leaves_its_run_however_it_is_encoded(
    door: Door, path: str, rounds: int
) -> None:
    run_id = await door.run()
    base = f"0/{run_id}/artifacts"
    await put(door, f"{base}/kept")
    encoded = path
    for _ in range(rounds):
        encoded = quote(encoded, safe="")
    before = await door.keys()
    # Below a run's artifacts, and in place of them.
    asked = [f"{base}/{encoded}", encoded]
    for target in asked:
        for answer in (
            await put(door, target),
            await get(door, target),
            await door.send("DELETE", f"{ROOT}/{target}"),
        ):
            assert 400 <= answer.status < 500, (target, answer)
    for _ in range(rounds - 1):
        path = quote(path, safe="")
    for where, fields in (
        ("artifacts/list", {"run_id": run_id, "path": path}),
        (ROOT, {"path": path}),
    ):
        assert 400 <= (await door.call("GET", where, fields)).status < 500
    assert await door.keys() == before
    assert (await get(door, f"{base}/kept")).body == b"x"


@given(path=st.text(min_size=1, max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_path_is_kept_below_its_run_or_refused(path: str) -> None:
    async def check() -> None:
        door = Door()
        await door.cases.experiments.ensure_default()
        run_id = await door.run()
        prefix = f"tracking/0/{run_id}/artifacts/"
        encoded = quote(path.encode("utf-8", "surrogatepass"), safe="/")
        stored = await put(door, f"0/{run_id}/artifacts/{encoded}")
        assert stored.status == 200 or 400 <= stored.status < 500
        assert all(key.startswith(prefix) for key in await door.keys())
        if stored.status == 200:
            assert (await get(door, f"0/{run_id}/artifacts/{encoded}")).body == b"x"

    asyncio.run(check())
