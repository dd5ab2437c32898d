"""Every flavor of models in the real runtime."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from devstack import Stack
from services.inference.adapters.triton_models import TritonModels
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


@pytest.fixture(scope="module")
async def models(stack: Stack) -> AsyncIterator[TritonModels]:
    models = TritonModels(stack.urls["triton_grpc"])
    yield models
    await models.close()


@pytest.fixture(scope="module")
async def client(stack: Stack) -> AsyncIterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(stack.urls["triton_grpc"])
    yield client
    await client.close()


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
    models: TritonModels, client: triton.InferenceServerClient
) -> None:
    manifest = {
        **{"flavor": "onnx", "file": "delay.onnx"},
        **{"inputs": [X, CARRIER], "outputs": [SCORES, ECHO]},
    }
    name = await load(models, manifest, {"delay.onnx": linear_graph(texts=True)})
    x = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    texts = np.array([["AA"], ["ü"], [""]], object)
    result = await client.infer(name, [given("x", x, "FP32"), given("carrier", texts, "BYTES")])
    np.testing.assert_allclose(result.as_numpy("scores"), x @ WEIGHTS, rtol=1e-5)
    assert [one.decode() for one in result.as_numpy("echo").ravel()] == ["AA", "ü", ""]
    await models.unload(name)


async def test_an_onnx_graph_with_another_signature_is_refused(models: TritonModels) -> None:
    manifest = {"flavor": "onnx", "file": "delay.onnx", "inputs": [X], "outputs": [SCORES]}
    with pytest.raises(ModelNotServable, match=r"has 'carrier' that the signature does not feed"):
        await load(models, manifest, {"delay.onnx": linear_graph(texts=True)})
