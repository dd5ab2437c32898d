"""Where the gateway of a stack has its models run, and the same model at a Triton beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from devstack import Stack, triton
from devstack.runtime import Runtime
from services.inference.adapters.bundles import FileBundles
from services.inference.adapters.triton.models import TritonModels

__all__ = ["direct_model", "runtime_of"]

_GATEWAY = "inference"


def runtime_of(stack: Stack) -> Runtime:
    """What the process of the inference service was told; a cluster's Triton is a process."""
    pid = stack.process(_GATEWAY).pid if stack.is_local else None
    variables = psutil.Process(pid).environ() if pid is not None else {}
    return Runtime.INSIDE if "TESSERA_TRITON_LIBRARY" in variables else Runtime.PROCESS


@asynccontextmanager
async def direct_model(stack: Stack) -> AsyncIterator[str]:
    """The model that the gateway loaded last, also at Triton's own process; its name there.

    The process is added to a stack that has none, and taken out again, as is the model. Where the
    gateway asks that process itself, its own model is the one.
    """
    added = triton.NAME not in {process.name for process in stack.state().processes}
    if added:
        await stack.start(triton.NAME)
    models = TritonModels(stack.urls["triton_grpc"])
    try:
        async with _loaded(models, stack.home.data(_GATEWAY) / "models") as name:
            yield name
    finally:
        await models.close()
        if added:
            await stack.stop(triton.NAME)


@asynccontextmanager
async def _loaded(models: TritonModels, kept: Path) -> AsyncIterator[str]:
    """The newest of the bundles that the gateway keeps, loaded where it is not."""
    name = _newest(kept)
    if name in await models.loaded():
        yield name
        return
    bundle = await FileBundles(kept).get(name)
    if bundle is None:
        raise RuntimeError(f"the gateway keeps nothing of {name} any more")
    await models.load(name, bundle.config, bundle.files)
    try:
        yield name
    finally:
        await models.unload(name)


def _newest(kept: Path) -> str:
    # A bundle's configuration is written last.
    return max(kept.glob("*/config.json"), key=lambda path: path.stat().st_mtime).parent.name
