"""Every flavor of models in the real runtime."""

from __future__ import annotations

import asyncio
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from services.inference.adapters.triton.models import TritonModels
from services.inference.domain.signature import parse_manifest
from services.inference.errors import ModelNotServable
from services.inference.runtime.bundle import make_bundle
from tests.helpers import unique_name
from tests.onnx_graphs import WEIGHTS, linear_graph

pytestmark = pytest.mark.timeout(240)

X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
CARRIER = {"name": "carrier", "datatype": "BYTES", "shape": [-1, 1]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 2]}
ECHO = {"name": "echo", "datatype": "BYTES", "shape": [-1, 1]}


async def load(models: TritonModels, manifest: Any, sources: Mapping[str, bytes]) -> str:
    """Load a model version as a deployment does; returns its name."""
    name = unique_name("flavor").replace("_", "-")
    bundle = make_bundle(name, parse_manifest(json.dumps(manifest).encode()), 1, sources)
    await models.load(name, bundle.config, bundle.files)
    return name


def given(name: str, array: np.ndarray[Any, Any], datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


async def test_an_onnx_graph_answers(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    manifest = {
        **{"flavor": "onnx", "file": "delay.onnx"},
        **{"inputs": [X, CARRIER], "outputs": [SCORES, ECHO]},
    }
    name = await load(process_models, manifest, {"delay.onnx": linear_graph(texts=True)})
    x = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    texts = np.array([["AA"], ["ü"], [""]], object)
    result = await client.infer(name, [given("x", x, "FP32"), given("carrier", texts, "BYTES")])
    np.testing.assert_allclose(result.as_numpy("scores"), x @ WEIGHTS, rtol=1e-5)
    assert [one.decode() for one in result.as_numpy("echo").ravel()] == ["AA", "ü", ""]
    await process_models.unload(name)


async def test_an_onnx_graph_with_another_signature_is_refused(models: TritonModels) -> None:
    manifest = {"flavor": "onnx", "file": "delay.onnx", "inputs": [X], "outputs": [SCORES]}
    with pytest.raises(ModelNotServable, match=r"has 'carrier' that the signature does not feed"):
        await load(models, manifest, {"delay.onnx": linear_graph(texts=True)})


async def test_a_program_is_asked_for_no_sizes_that_it_was_not_exported_for(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    layer = torch.nn.Linear(4, 2, bias=False).eval()
    with warnings.catch_warnings():
        # torch warns of its own internals.
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("rows", min=1, max=4)},)
        program = torch.export.export(layer, (torch.zeros(2, 4),), dynamic_shapes=shapes)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    manifest = {
        **{"flavor": "torch_export", "file": "model.pt2"},
        **{"inputs": [X], "outputs": [SCORES]},
    }
    name = await load(process_models, manifest, {"model.pt2": buffer.getvalue()})
    x = np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32)
    result = await client.infer(name, [given("x", x[:4], "FP32")])
    weights = layer.weight.detach().numpy()
    np.testing.assert_allclose(result.as_numpy("scores"), x[:4] @ weights.T, rtol=1e-5)
    with pytest.raises(
        InferenceServerException,
        match="input 'x' has size 5 along axis 0; the program was exported for 0 to 4",
    ) as caught:
        await client.infer(name, [given("x", x, "FP32")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    await process_models.unload(name)


NET = b"""
import torch

from .layers import scale

class Net(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2, bias=False)
        self.factor = factor

    def forward(self, x):
        return scale(self.layer(x), self.factor)
"""
LAYERS = b"""
def scale(x, factor):
    return x * factor
"""


async def test_a_module_with_safetensors_answers(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    manifest = {
        **{"flavor": "torch_module", "file": "model.safetensors"},
        **{"entry": "nets.net:Net", "arguments": {"factor": 2.0}},
        **{"inputs": [X], "outputs": [SCORES]},
    }
    sources = {
        "model.safetensors": safetensors.numpy.save({"layer.weight": WEIGHTS.T.copy()}),
        "code/nets/__init__.py": b"",
        "code/nets/net.py": NET,
        "code/nets/layers.py": LAYERS,
    }
    name = await load(process_models, manifest, sources)
    x = np.random.default_rng(6).normal(size=(3, 4)).astype(np.float32)
    result = await client.infer(name, [given("x", x, "FP32")])
    np.testing.assert_allclose(result.as_numpy("scores"), x @ WEIGHTS * 2, rtol=1e-5)
    await process_models.unload(name)
    with pytest.raises(ModelNotServable, match=r"output 'scores' has shape \[1, 2\]"):
        await load(process_models, {**manifest, "outputs": [{**SCORES, "shape": [-1, 3]}]}, sources)


@pytest.mark.skipif(
    "TESSERA_TEST_COMPILED" not in os.environ,
    reason="compiling takes a compiler of C++ a minute or two: set TESSERA_TEST_COMPILED=1 for it",
)
async def test_a_compiled_package_answers(
    process_models: TritonModels, client: triton.InferenceServerClient, tmp_path: Path
) -> None:
    rows = torch.export.Dim("rows", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            torch.nn.Linear(4, 2), (torch.zeros(2, 4),), dynamic_shapes=({0: rows},)
        )
        path = await asyncio.to_thread(
            torch._inductor.aoti_compile_and_package,
            program,
            package_path=str(tmp_path / "linear.pt2"),
        )
    content = await asyncio.to_thread(Path(path).read_bytes)
    manifest = {
        **{"flavor": "torch_compiled", "file": "linear.pt2"},
        **{"inputs": [X], "outputs": [SCORES]},
    }
    name = await load(process_models, manifest, {"linear.pt2": content})
    x = np.random.default_rng(7).normal(size=(3, 4)).astype(np.float32)
    result = await client.infer(name, [given("x", x, "FP32")])
    expected = program.module()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(result.as_numpy("scores"), expected, rtol=1e-4, atol=1e-6)
    await process_models.unload(name)
