"""What tests of models on a GPU share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as triton

from services.inference.adapters.triton.models import TritonModels
from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.runtime_options import RuntimeOptions
from services.inference.domain.signature import parse_manifest
from services.inference.runtime.bundle import ModelFiles, make_bundle
from tests.helpers import eventually, unique_name

__all__ = ["CPU", "GPU", "NEEDS_GPU", "comes_back", "given", "load", "on_gpu", "used_bytes"]

CPU, GPU = InstanceGroup(Device.CPU, 1), InstanceGroup(Device.GPU, 1)
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
LEAST_CONTEXT_BYTES = 100 << 20
"""A process that uses the GPU takes more for its context alone."""
SLACK_BYTES = 64 << 20


def used_bytes() -> int:
    """Memory of the GPU that all processes use."""
    free, total = torch.cuda.mem_get_info()
    return total - free


async def comes_back(before: int, timeout: float = 30.0) -> None:
    """Waits until not more of the GPU's memory is in use than before."""

    async def is_free() -> bool:
        return used_bytes() < before + SLACK_BYTES

    await eventually(is_free, timeout=timeout)


async def load(
    models: TritonModels,
    manifest: Mapping[str, Any],
    sources: Mapping[str, bytes],
    *groups: InstanceGroup,
    options: RuntimeOptions | None = None,
    steps: Sequence[tuple[Mapping[str, Any], Mapping[str, bytes]]] = (),
) -> str:
    """Load a model version as a deployment does; returns its name."""
    name = unique_name("gpu").replace("_", "-")
    bundle = make_bundle(
        *(name, _parsed(manifest), 1, sources, groups),
        options=options or RuntimeOptions(),
        steps=[ModelFiles(_parsed(told), files) for told, files in steps],
    )
    await models.load(name, bundle.config, bundle.files)
    return name


@asynccontextmanager
async def on_gpu(
    models: TritonModels,
    manifest: Mapping[str, Any],
    sources: Mapping[str, bytes],
    *groups: InstanceGroup,
    **more: Any,
) -> AsyncIterator[str]:
    """A model that takes the GPU's memory as long as it is loaded."""
    torch.cuda.init()
    before = used_bytes()
    name = await load(models, manifest, sources, *(groups or (GPU,)), **more)
    try:
        yield name
        assert used_bytes() - before >= LEAST_CONTEXT_BYTES
    finally:
        await models.unload(name)
    await comes_back(before)


def given(name: str, array: np.ndarray[Any, Any], datatype: str = "FP32") -> triton.InferInput:
    """An array as an input of a request."""
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _parsed(manifest: Mapping[str, Any]) -> Any:
    return parse_manifest(json.dumps(manifest).encode())
