"""A Triton within the tests' process comes and goes, with what it does and what it left."""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import pytest

from services.inference.adapters.triton.region import SharedRegion, stale_regions
from services.inference.adapters.triton_inside import calls as calls_module
from services.inference.adapters.triton_inside.interface import TritonFailure
from services.inference.adapters.triton_inside.server import TritonPlace, TritonServer
from services.inference.errors import InferenceTimeout, ModelNotServable, RuntimeUnavailable
from tests.integration.inference.echoing import config, files, request, told
from tests.integration.inference.inside import Inside, inside, needs_inside

pytestmark = pytest.mark.timeout(240)

NAME: Final = "echo"
SECONDS: Final = 30.0
NEVER: Final = 1000.0
"""Seconds that no test waits for."""


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Inside]:
    async with inside(tmp_path_factory.mktemp("inside")) as here:
        yield here


async def load(here: Inside, load_seconds: float = 0) -> None:
    await here.models.load(NAME, config(NAME, load_seconds=load_seconds), files())


async def ask(here: Inside, sleep: float = 0, timeout: float = SECONDS) -> bytes:
    return await here.calls.infer(request(NAME, parameters={"sleep": sleep}), timeout)


def regions(server: TritonServer) -> list[str]:
    return stale_regions(server._place.region)


def running(here: Inside) -> list[psutil.Process]:
    """Processes of models that run in this Triton."""
    region = here.server._place.region
    children = psutil.Process().children(recursive=True)
    return [
        one
        for one in children
        if one.status() != psutil.STATUS_ZOMBIE
        and any(word.startswith(region) for word in one.cmdline())
    ]


async def test_an_end_takes_models_along_and_no_request_hangs(here: Inside) -> None:
    await load(here)
    first = told(await ask(here))
    asked = [asyncio.ensure_future(ask(here, 0.2)) for _ in range(20)]
    await asyncio.sleep(0.1)
    ending = asyncio.ensure_future(here.process.end())
    while not ending.done():
        asked.append(asyncio.ensure_future(ask(here)))
        await asyncio.sleep(0.02)
    found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    failed = [one for one in found if not isinstance(one, bytes)]
    assert failed
    assert all(isinstance(one, RuntimeUnavailable) for one in failed)
    await ending
    assert await here.models.loaded() == frozenset()
    with pytest.raises(RuntimeUnavailable):
        await ask(here)
    await load(here)
    assert told(await ask(here)) == first
    assert await here.models.loaded() == {NAME}


async def test_models_are_loaded_beside_computations(here: Inside) -> None:
    """OpenBLAS waited for its threads in Triton's fork for ever."""
    matrix, over = np.ones((300, 300)), threading.Event()

    def compute() -> None:
        while not over.is_set():
            matrix @ matrix

    computing = asyncio.ensure_future(asyncio.to_thread(compute))
    try:
        for _ in range(3):
            names = [f"beside-{number}" for number in range(4)]
            loads = (here.models.load(name, config(name), files()) for name in names)
            await asyncio.wait_for(asyncio.gather(*loads), 2 * SECONDS)
            for name in names:
                await here.models.unload(name)
    finally:
        over.set()
        await computing


async def test_an_end_takes_a_model_along_that_does_not_return(
    here: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_DRAIN_SECONDS", 0.5)
    await load(here)
    with pytest.raises(InferenceTimeout):
        await ask(here, NEVER, timeout=0.2)
    asked = [asyncio.ensure_future(ask(here, NEVER)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await asyncio.wait_for(here.process.end(), SECONDS)
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, RuntimeUnavailable) for one in found)
    assert running(here) == []
    await load(here)
    assert await ask(here)


@pytest.mark.parametrize("seconds", [1.0, NEVER])
async def test_an_end_waits_for_a_load_or_ends_it(here: Inside, seconds: float) -> None:
    loading = asyncio.ensure_future(load(here, seconds))
    await asyncio.sleep(0.5)
    await asyncio.wait_for(here.process.end(), SECONDS)
    if seconds == NEVER:
        with pytest.raises(ModelNotServable):
            await loading
    else:
        await loading
    assert await here.models.loaded() == frozenset()
    await load(here)
    assert await ask(here)


async def test_a_model_whose_process_died_is_no_hindrance(here: Inside) -> None:
    await load(here)
    await here.server.kill_models()
    for _ in range(2):
        with pytest.raises(RuntimeUnavailable):
            await ask(here)
    await asyncio.wait_for(here.process.end(), SECONDS)
    await load(here)
    assert await ask(here)


async def test_an_end_leaves_no_shared_memory(here: Inside) -> None:
    await load(here)
    assert regions(here.server)
    await here.server.stop()
    assert regions(here.server) == []
    with pytest.raises(RuntimeUnavailable):
        await ask(here)
    with pytest.raises(RuntimeUnavailable):
        await load(here)
    with pytest.raises(RuntimeUnavailable):
        await here.models.loaded()
    await here.server.start()


async def test_another_with_caches_is_told_that_it_cannot_start(
    here: Inside, tmp_path: Path
) -> None:
    place = replace(here.server._place, models=tmp_path / "models", owner=tmp_path)
    second = TritonServer(place)
    with pytest.raises(TritonFailure, match="already holds a cache"):
        await second.start()
    with pytest.raises(TritonFailure, match="does not run"):
        _ = second.handle
    await second.stop()
    await load(here)
    assert await ask(here)


@contextmanager
def region(name: str) -> Iterator[str]:
    made = SharedRegion(name, 1 << 12)
    made.open()
    try:
        yield name
    finally:
        made.close()


async def test_what_a_killed_process_left_is_swept_by_the_next_of_its_owner(
    tmp_path: Path,
) -> None:
    needs_inside()
    owner, other = tmp_path / "owner", tmp_path / "other"
    owner.mkdir()
    process = await held(owner)
    place = TritonPlace(*(tmp_path,) * 4, owner)
    left = stale_regions(place.region)
    assert left
    process.kill()
    await process.wait()
    assert set(stale_regions(place.region)) <= set(left)
    with (
        region(f"{place.region}left"),
        region(f"{replace(place, owner=other).region}kept") as kept,
    ):
        async with inside(owner, caches=False) as here:
            assert here.server._place.region == place.region
            assert stale_regions(place.region) == []
            assert kept in stale_regions("tessera_models_")
            await load(here)
            assert await ask(here)


async def held(folder: Path) -> Process:
    """A process with a Triton and a model of that owner."""
    command = (sys.executable, "-m", "tests.integration.inference.inside", str(folder))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
    return process
