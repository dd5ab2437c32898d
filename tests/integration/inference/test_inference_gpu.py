"""Models on a GPU in the real runtime: the CPU's answers, memory that comes back, lost contexts."""

from __future__ import annotations

import asyncio
import io
import json
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from tritonclient.grpc import service_pb2

from services.inference.domain.endpoint import Device, InstanceGroup
from services.inference.domain.fields import text_field
from services.inference.domain.signature import parse_manifest
from services.inference.ports import Runtime, RuntimeModels
from services.inference.runtime.bundle import make_bundle
from tests.helpers import unique_name
from tests.integration.inference.on_gpu import NEEDS_GPU, comes_back, used_bytes

pytestmark = [pytest.mark.timeout(300), NEEDS_GPU]
CPU, GPU, AUTO = Device.CPU, Device.GPU, Device.AUTO


class Masked(nn.Module):
    """Its graph makes tensors of its own: positions and a mask, on a device written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(x.shape[0], 16, dtype=torch.bool).tril()
        return self.layer(x).masked_fill(mask, 0.5) + torch.arange(16) + torch.tensor([2.0])


def wide() -> nn.Module:
    """50 million parameters, 200 MB."""
    return nn.Sequential(
        nn.Linear(1024, 4608),
        nn.ReLU(),
        nn.Linear(4608, 4608),
        nn.ReLU(),
        nn.Linear(4608, 4608),
        nn.ReLU(),
        nn.Linear(4608, 512),
    )


def convolutions() -> nn.Module:
    """A small classifier of images."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "masked": (Masked, (16,)),
    "wide": (wide, (1024,)),
    "convolutions": (convolutions, (3, 32, 32)),
}


@cache
def module(name: str) -> nn.Module:
    torch.manual_seed(11)
    made: nn.Module = MODELS[name][0]().eval()
    return made


@cache
def exported(name: str) -> bytes:
    rows = torch.export.Dim("rows", min=1, max=8192)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch warns of its own internals.
        warnings.simplefilter("ignore")
        example = torch.zeros(2, *MODELS[name][1])
        program = torch.export.export(module(name), (example,), dynamic_shapes=({0: rows},))
        torch.export.save(program, buffer)
    return buffer.getvalue()


def example(name: str, rows: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(rows)
    return generator.normal(size=(rows, *MODELS[name][1])).astype(np.float32)


def expected(name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    known = module(name)
    with torch.inference_mode():
        answer: np.ndarray[Any, Any] = known(torch.from_numpy(x)).numpy()
    return answer


def signature_of(name: str) -> Any:
    width = expected(name, example(name, 2)).shape[1]
    shape = [-1, *MODELS[name][1]]
    return parse_manifest(
        json.dumps(
            {
                "flavor": "torch_export",
                "file": "model.pt2",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "role": "FEATURE"}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, width]}],
            }
        ).encode()
    )


async def load(models: RuntimeModels, model: str, *groups: InstanceGroup) -> str:
    name = unique_name("gpu").replace("_", "-")
    signature = signature_of(model)
    bundle = make_bundle(name, signature, 1, {signature.file: exported(model)}, groups)
    await models.load(name, bundle.config, bundle.files)
    return name


def request(name: str, x: np.ndarray[Any, Any], datatype: str = "FP32") -> bytes:
    message = service_pb2.ModelInferRequest(id="r")
    message.inputs.add(name="x", datatype=datatype, shape=x.shape)
    message.raw_input_contents.append(x.tobytes())
    return bytes(message.SerializeToString()) + text_field(1, name)


async def ask(runtime: Runtime, body: bytes) -> np.ndarray[Any, Any]:
    reply = service_pb2.ModelInferResponse.FromString(await runtime.infer(body, 60))
    (output,) = reply.outputs
    return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(output.shape)


@pytest.mark.parametrize(
    "groups",
    [
        (InstanceGroup(GPU, 1),),
        (InstanceGroup(GPU, 2, (0,)),),
        (InstanceGroup(CPU, 1), InstanceGroup(GPU, 1)),
        (),
    ],
    ids=["gpu", "two", "both", "anywhere"],
)
@pytest.mark.parametrize("model", list(MODELS))
async def test_the_answers_are_the_cpus(
    models: RuntimeModels, runtime: Runtime, model: str, groups: tuple[InstanceGroup, ...]
) -> None:
    name = await load(models, model, *groups)
    batches = [example(model, 1 + i % 5) for i in range(20)]
    found = await asyncio.gather(*(ask(runtime, request(name, batch)) for batch in batches))
    if model != "masked":  # What it answers depends on a row's place in the batch.
        for batch, got in zip(batches, found, strict=True):
            np.testing.assert_allclose(got, expected(model, batch), rtol=2e-3, atol=2e-3)
    large = example(model, 64)
    got = await ask(runtime, request(name, large))
    np.testing.assert_allclose(got, expected(model, large), rtol=2e-3, atol=2e-3)
    await models.unload(name)


async def test_parameters_lie_on_the_gpu_and_leave_it(models: RuntimeModels) -> None:
    """A large model takes its parameters' bytes more than a small one, which has its context."""
    parameters = sum(p.numel() * p.element_size() for p in module("wide").parameters())
    torch.cuda.init()
    empty = used_bytes()

    grown = {}
    for model in ("masked", "wide"):
        name = await load(models, model, InstanceGroup(GPU, 1))
        grown[model] = used_bytes() - empty
        await models.unload(name)
        await comes_back(empty)
    assert 0.9 * parameters < grown["wide"] - grown["masked"] < 2 * parameters
    name = await load(models, "wide", InstanceGroup(CPU, 1))
    assert used_bytes() < empty + (64 << 20)
    await models.unload(name)


async def test_a_hundred_swaps_leave_no_memory_behind(
    models: RuntimeModels, runtime: Runtime
) -> None:
    """Four models at a time come and go, 25 times each, while another one answers."""
    steady = await load(models, "masked", InstanceGroup(GPU, 1))
    before = used_bytes()
    ended = asyncio.Event()

    async def go_on() -> int:
        answered = 0
        while not ended.is_set():
            await ask(runtime, request(steady, example("masked", 2)))
            answered += 1
        return answered

    async def come_and_go(model: str) -> None:
        for _ in range(25):
            name = await load(models, model, InstanceGroup(GPU, 1))
            got = await ask(runtime, request(name, example(model, 3)))
            np.testing.assert_allclose(
                got, expected(model, example(model, 3)), rtol=2e-3, atol=2e-3
            )
            await models.unload(name)

    answering = asyncio.create_task(go_on())
    await asyncio.gather(*map(come_and_go, ("masked", "wide", "convolutions", "wide")))
    ended.set()
    assert await answering > 100
    await comes_back(before)
    await models.unload(steady)
