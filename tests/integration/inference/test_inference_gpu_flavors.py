"""Every flavor of models on a GPU in the real runtime: answers, places, memory that comes back."""

from __future__ import annotations

import io
import warnings
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch
import tritonclient.grpc.aio as triton

from services.inference.adapters.triton.models import TritonModels
from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.errors import ModelNotServable
from tests.integration.inference.on_gpu import CPU, GPU, NEEDS_GPU, given, load, on_gpu
from tests.onnx_graphs import WEIGHTS, linear_graph

pytestmark = [pytest.mark.timeout(300), NEEDS_GPU]

X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 2]}
DEVICE = {"name": "device", "datatype": "BYTES", "shape": [-1, 1]}
LINEAR = {"inputs": [X], "outputs": [SCORES]}
NET = b"""
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.layer(x)
"""
RUNNING = b"""
import torch

class Doubled:
    def load(self, context):
        self.device = context.device
        self.two = torch.full((1,), 2.0, device=self.device)

    def predict(self, inputs):
        y = torch.tensor(inputs["x"], device=self.device) * self.two
        return {"scores": y[:, :2].cpu().numpy(), "device": [[str(y.device)]] * len(y)}

class Wide(Doubled):
    def predict(self, inputs):
        y = torch.tensor(inputs["x"], device=self.device) * self.two
        return {"doubled": y.cpu().numpy(), "device": [[str(y.device)]] * len(y)}

class Parts(Doubled):
    def predict(self, inputs):
        for row in torch.tensor(inputs["x"], device=self.device).cumsum(0):
            yield {"scores": (row[None, :2] * self.two).cpu().numpy(), "device": str(row.device)}

class Total(Doubled):
    def predict(self, inputs, sequence):
        x = torch.tensor(inputs["x"], device=self.device)
        total = sequence.state["total"] = sequence.state.get("total", 0 * x) + x
        return {"scores": total[:, :2].cpu().numpy(), "device": [[str(total.device)]]}
"""


def some(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


def net() -> torch.nn.Module:
    made = torch.nn.Linear(4, 2, bias=False)
    made.load_state_dict({"weight": torch.from_numpy(WEIGHTS.T.copy())})
    return made.eval()


def scripted() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch tells that TorchScript is old.
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net()), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch warns of its own internals.
        warnings.simplefilter("ignore")
        rows = torch.export.Dim("rows", min=1, max=64)
        program = torch.export.export(net(), (torch.zeros(2, 4),), dynamic_shapes=({0: rows},))
        torch.export.save(program, buffer)
    return buffer.getvalue()


def version(flavor: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files of `scores = x @ WEIGHTS`."""
    match flavor:
        case "torch_export":
            return {"flavor": flavor, "file": "m.pt2", **LINEAR}, {"m.pt2": exported()}
        case "torchscript":
            return {"flavor": flavor, "file": "m.pt", **LINEAR}, {"m.pt": scripted()}
        case "onnx":
            return {"flavor": flavor, "file": "m.onnx", **LINEAR}, {"m.onnx": linear_graph()}
    weights = safetensors.numpy.save({"layer.weight": WEIGHTS.T.copy()})
    manifest = {"flavor": flavor, "file": "m.safetensors", "entry": "net:Net", **LINEAR}
    return manifest, {"m.safetensors": weights, "code/net.py": NET}


def written(entry: str, **more: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files of a class of Python."""
    told = {"flavor": "python", "entry": f"running:{entry}", **more}
    return {**told, "inputs": [X], "outputs": [SCORES, DEVICE]}, {"code/running.py": RUNNING}


async def scores(client: triton.InferenceServerClient, name: str, x: Any) -> Any:
    return (await client.infer(name, [given("x", x)])).as_numpy("scores")


@pytest.mark.parametrize("flavor", ["torch_export", "torchscript", "torch_module"])
async def test_a_flavor_of_torch_answers_on_the_gpu(
    process_models: TritonModels, client: triton.InferenceServerClient, flavor: str
) -> None:
    async with on_gpu(process_models, *version(flavor)) as name:
        for rows in (1, 3, 64):
            x = some(rows)
            np.testing.assert_allclose(
                await scores(client, name, x), x @ WEIGHTS, rtol=1e-4, atol=1e-5
            )


async def test_an_onnx_graph_uses_the_gpu_or_says_what_it_lacks(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    manifest, sources = version("onnx")
    x = some(5)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        async with on_gpu(process_models, manifest, sources) as name:
            found = await scores(client, name, x)
    else:
        with pytest.raises(ModelNotServable, match="give the runtime onnxruntime-gpu"):
            await load(process_models, manifest, sources, GPU)
        name = await load(process_models, manifest, sources, InstanceGroup(Device.AUTO, 1))
        found = await scores(client, name, x)
        await process_models.unload(name)
    np.testing.assert_allclose(found, x @ WEIGHTS, rtol=1e-3, atol=1e-3)


async def test_a_class_computes_on_the_gpu(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    async with on_gpu(process_models, *written("Doubled")) as name:
        result = await client.infer(name, [given("x", some(3))])
        np.testing.assert_allclose(result.as_numpy("scores"), some(3)[:, :2] * 2, rtol=1e-6)
        assert result.as_numpy("device").ravel().tolist() == [b"cuda:0"] * 3
    name = await load(process_models, *written("Doubled"), CPU)
    result = await client.infer(name, [given("x", some(1))])
    assert result.as_numpy("device").ravel().tolist() == [b"cpu"]
    await process_models.unload(name)


async def test_a_class_streams_from_the_gpu(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    async def requests() -> AsyncIterator[Mapping[str, Any]]:
        yield {"model_name": name, "inputs": [given("x", some(4))]}

    async with on_gpu(process_models, *written("Parts", streams=True)) as name:
        parts = []
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            assert result.as_numpy("device").ravel().tolist() == [b"cuda:0"]
            parts.append(result.as_numpy("scores"))
    expected = some(4).cumsum(0)[:, :2] * 2
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-6)


async def test_a_class_keeps_its_state_on_the_gpu(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    options = RuntimeOptions(sequences=SequenceOptions())
    async with on_gpu(process_models, *written("Total", stateful=True), options=options) as name:
        for step in range(4):
            result = await client.infer(
                name,
                [given("x", np.ones((1, 4), np.float32))],
                sequence_id=9,
                sequence_start=step == 0,
                sequence_end=step == 3,
            )
            assert result.as_numpy("scores").tolist() == [[step + 1.0] * 2]
            assert result.as_numpy("device").ravel().tolist() == [b"cuda:0"]


async def test_every_step_of_a_pipeline_runs_on_the_gpu(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    first, second = written("Wide"), version("torch_export")
    first[0]["outputs"] = [{**X, "name": "doubled"}, DEVICE]
    pipeline = {
        **{"flavor": "pipeline", "inputs": [X], "outputs": [SCORES, DEVICE]},
        "steps": [
            {"model": "main.a.wide", "version": 1},
            {"model": "main.a.net", "version": 1, "inputs": {"x": "doubled"}},
        ],
    }
    steps = [first, second]
    async with on_gpu(process_models, pipeline, {}, steps=steps) as name:
        x = some(6)
        result = await client.infer(name, [given("x", x)])
        np.testing.assert_allclose(result.as_numpy("scores"), 2 * x @ WEIGHTS, rtol=1e-4, atol=1e-5)
        assert result.as_numpy("device").ravel().tolist() == [b"cuda:0"] * 6


async def test_instances_lie_where_they_were_asked_for(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    groups = (InstanceGroup(Device.CPU, 2), InstanceGroup(Device.GPU, 2, (0,)))
    async with on_gpu(process_models, *version("torch_export"), *groups) as name:
        config = await client.get_model_config(name, as_json=True)
    found = [
        (group["kind"], group["count"], group.get("gpus", []))
        for group in config["config"]["instance_group"]
    ]
    assert found == [("KIND_CPU", 2, []), ("KIND_GPU", 2, [0])]


async def test_a_gpu_that_is_not_there_is_refused(models: TritonModels) -> None:
    missing = torch.cuda.device_count()
    with pytest.raises(ModelNotServable, match=rf"(?i)gpu.*{missing}"):
        await load(models, *version("torch_export"), InstanceGroup(Device.GPU, 1, (missing,)))
