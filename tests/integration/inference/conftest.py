"""What tests of inference share: the runtime in each of its places, and the services' processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import tritonclient.grpc.aio as triton

from devstack import Stack
from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.models import TritonModels
from services.inference.adapters.triton.wire import TritonWire
from services.inference.ports import Runtime, RuntimeModels
from tests.integration.inference.inside import inside, needs_inside
from tests.integration.inference.serving import Serving, open_serving

_LARGEST = 64 << 20


@pytest.fixture(scope="module")
async def serving(stack: Stack) -> AsyncIterator[Serving]:
    """Its models leave the runtime with the module: those who kill it later need not wait."""
    serving = await open_serving(stack)
    yield serving
    await serving.delete_endpoints()
    await serving.close()


@dataclass(frozen=True)
class Place:
    """A runtime somewhere, by its ports."""

    models: RuntimeModels
    runtime: Runtime


@pytest.fixture(scope="module", params=["process", "inside", "inside, relayed by Python"])
async def place(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    """Triton as a process that is asked by gRPC, and within this one."""
    if request.param == "process":
        dead = DeadModels()
        models = TritonModels(stack.urls["triton_grpc"], dead)
        wire = TritonWire(stack.urls["triton_grpc"], max_message_bytes=_LARGEST, dead=dead)
        yield Place(models, wire)
        await wire.close()
        await models.close()
        return
    needs_inside()
    folder = tmp_path_factory.mktemp("inside")
    async with inside(folder, relay=request.param == "inside", max_message_bytes=_LARGEST) as here:
        yield Place(here.models, here.calls)


@pytest.fixture(scope="module")
def models(place: Place) -> RuntimeModels:
    """Loads and unloads models of the runtime."""
    return place.models


@pytest.fixture(scope="module")
def runtime(place: Place) -> Runtime:
    """Asks the runtime as the gateway does."""
    return place.runtime


@pytest.fixture(scope="module")
async def process_models(stack: Stack) -> AsyncIterator[TritonModels]:
    """Loads and unloads models of the stack's process of Triton."""
    models = TritonModels(stack.urls["triton_grpc"])
    yield models
    await models.close()


@pytest.fixture(scope="module")
async def client(stack: Stack) -> AsyncIterator[triton.InferenceServerClient]:
    """Triton's own client of that process."""
    client = triton.InferenceServerClient(stack.urls["triton_grpc"])
    yield client
    await client.close()
