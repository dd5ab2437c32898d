"""What tests of inference share: the stack's runtime, and a platform of the services' processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import tritonclient.grpc.aio as triton

from devstack import Stack
from services.inference.adapters.triton.models import TritonModels
from services.inference.adapters.triton.wire import TritonWire
from tests.integration.inference.serving import Serving, open_serving


@pytest.fixture(scope="module")
async def serving(stack: Stack) -> AsyncIterator[Serving]:
    """Its models leave the runtime with the module: those who kill it later need not wait."""
    serving = await open_serving(stack)
    yield serving
    await serving.delete_endpoints()
    await serving.close()


@pytest.fixture(scope="module")
async def models(stack: Stack) -> AsyncIterator[TritonModels]:
    """Loads and unloads models of the stack's runtime."""
    models = TritonModels(stack.urls["triton_grpc"])
    yield models
    await models.close()


@pytest.fixture(scope="module")
async def runtime(stack: Stack) -> AsyncIterator[TritonWire]:
    """Asks the stack's runtime as the gateway does."""
    runtime = TritonWire(stack.urls["triton_grpc"], max_message_bytes=64 << 20)
    yield runtime
    await runtime.close()


@pytest.fixture(scope="module")
async def client(stack: Stack) -> AsyncIterator[triton.InferenceServerClient]:
    """Triton's own client of the stack's runtime."""
    client = triton.InferenceServerClient(stack.urls["triton_grpc"])
    yield client
    await client.close()
