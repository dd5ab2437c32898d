"""A Triton within the tests' own process, as the inference service runs one."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from devstack import Home, triton
from devstack.environment import engine_environment
from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton_inside.calls import TritonCalls
from services.inference.adapters.triton_inside.models import InsideModels
from services.inference.adapters.triton_inside.process import InsideProcess
from services.inference.adapters.triton_inside.relay import compiled
from services.inference.adapters.triton_inside.server import TritonPlace, TritonServer
from tests.integration.inference.echoing import config, files

__all__ = ["Inside", "inside", "needs_inside"]

_LARGEST: Final = 64 << 20
_MISSING: Final = re.compile(r"^(\S+): cannot open shared object file")


def needs_inside() -> None:
    """Skip what would start Triton in the tests' process, unless that is wanted."""
    if os.environ.get("TESSERA_TEST_INSIDE") != "1":
        pytest.skip(
            "a fault of Triton's ends the process that it runs in, which is that of the tests "
            "here: set TESSERA_TEST_INSIDE=1 to run Triton within them"
        )


class Inside:
    """Triton and what asks it."""

    def __init__(
        self, server: TritonServer, calls: TritonCalls, dead: DeadModels, relay: Path
    ) -> None:
        self.server = server
        self.calls = calls
        self.models = InsideModels(server, dead)
        self.process = InsideProcess(server, calls)
        self._dead = dead
        self._relay = relay

    @asynccontextmanager
    async def asking(
        self, *, relay: bool = True, max_message_bytes: int = _LARGEST
    ) -> AsyncIterator[TritonCalls]:
        """Another who asks it; arguments as those of `inside`."""
        calls = TritonCalls(
            self.server,
            max_message_bytes=max_message_bytes,
            relay=self._relay if relay else None,
            dead=self._dead,
        )
        try:
            yield calls
        finally:
            await calls.close()


@asynccontextmanager
async def inside(
    folder: Path, *, relay: bool = True, max_message_bytes: int = _LARGEST, caches: bool = True
) -> AsyncIterator[Inside]:
    """A Triton with the stack's own parts.

    Args:
        folder: For its files.
        relay: Whether answers pass the compiled relay, and not Python.
        max_message_bytes: Largest response.
        caches: Whether it has caches of answers, as one at a time of a process may have.
    """
    place, environment = await asyncio.to_thread(_prepare, folder)
    if not caches:
        place = replace(place, caches=folder / "none")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        path = await asyncio.to_thread(compiled, folder)
        assert path is not None, "no C compiler: the compiled relay cannot be tested"
        server, dead = TritonServer(place), DeadModels()
        await server.start()
        calls = TritonCalls(
            server,
            max_message_bytes=max_message_bytes,
            relay=path if relay else None,
            dead=dead,
        )
        try:
            yield Inside(server, calls, dead, path)
        finally:
            await calls.close()
            await server.stop()


def _prepare(folder: Path) -> tuple[TritonPlace, dict[str, str]]:
    """Where the parts are, and what processes of models need of the environment."""
    home = Home.at(folder)
    given = triton.inside(home, "inference")
    needs_inside()
    fork_support = "GRPC_ENABLE_FORK_SUPPORT"
    if os.environ.get(fork_support) != given.variables[fork_support]:
        pytest.fail(f"set {fork_support}=0, as `infra/run test` does: Triton forks")
    given.prepare()
    library = Path(given.variables["TESSERA_TRITON_LIBRARY"])
    backends = Path(given.variables["TESSERA_TRITON_BACKENDS"])
    caches = Path(given.variables["TESSERA_TRITON_CACHES"])
    # A service's process finds them by LD_LIBRARY_PATH, which is read when a process begins.
    for path in (library, *backends.rglob("*.so"), *caches.rglob("*.so")):
        _load(path, library.parent)
    found = {"LD_LIBRARY_PATH": given.variables["LD_LIBRARY_PATH"]}
    found["PATH"] = engine_environment(home)["PATH"]
    return TritonPlace(library, backends, caches, folder / "models", folder), found


def _load(path: Path, libraries: Path) -> None:
    """Load a library, after those that it needs."""
    while True:
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            missing = _MISSING.search(str(error))
            if missing is None or not (libraries / missing[1]).exists():
                raise
            _load(libraries / missing[1], libraries)
        else:
            return


async def _hold(folder: Path) -> None:
    """Run a Triton with a model until this process is killed."""
    async with inside(folder) as here:
        await here.models.load("held", config("held"), files())
        print("ready", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_hold(Path(sys.argv[1])))
