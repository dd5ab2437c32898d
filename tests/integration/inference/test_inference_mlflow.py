"""Models that MLflow's own client logged, served as they were registered."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from devstack import Stack
from tessera.inference.v1 import endpoint_pb2, inference_service_pb2
from tests.helpers import unique_name
from tests.integration.inference.serving import Serving
from tests.onnx_graphs import WEIGHTS

pytestmark = pytest.mark.timeout(300)

CLIENT = Path(__file__).with_name("mlflow_models.py")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
async def registered(stack: Stack, serving: Serving) -> AsyncIterator[Serving]:
    """The platform with each of `mlflow_models.py`'s models."""
    await stack.start("tracking")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.inference.mlflow_models", serving.schema),
        cwd=ROOT,
        env={
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_PYTHON_REFRESH": "quiet",
            "PYTHONWARNINGS": "ignore",
            "MLFLOW_TRACKING_URI": stack.urls["tracking_http"],
            "MLFLOW_TRACKING_TOKEN": serving.token,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-5000:]
    yield serving


async def create(serving: Serving, model: str, *, allow_code: bool, **environment: str) -> Any:
    """An endpoint of version 1 of a model, once no change is under way."""
    name = unique_name("mlflow").replace("_", "-")
    entity = endpoint_pb2.ServedEntity(
        model_name=f"{serving.schema}.{model}",
        model_version=1,
        traffic_percent=100,
        allow_code=allow_code,
        environment=environment,
    )
    await serving.endpoints.CreateEndpoint(
        inference_service_pb2.CreateEndpointRequest(
            name=name,
            config=endpoint_pb2.EndpointConfig(served_entities=[entity]),
            inference_table=endpoint_pb2.InferenceTableConfig(schema_full_name=serving.schema),
        )
    )
    return await serving.settled(name)


async def ask(serving: Serving, name: str, **columns: tuple[str, list[Any]]) -> Any:
    inputs = []
    for column, (datatype, values) in columns.items():
        kind = {"FP64": np.float64, "INT64": np.int64, "BYTES": np.object_}[datatype]
        tensor = triton.InferInput(column, [len(values), 1], datatype)
        tensor.set_data_from_numpy(np.array(values, kind).reshape(-1, 1))
        inputs.append(tensor)
    return await serving.gateway.infer(name, inputs, headers=serving.headers)


async def test_code_is_refused_where_it_is_not_allowed(registered: Serving) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(registered, "late", allow_code=False)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "config.served_entities[0].allow_code must be true" in str(caught.value.details())


async def test_a_model_of_scikit_learn_takes_its_columns(registered: Serving) -> None:
    endpoint = await create(registered, "late", allow_code=True)
    assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY, endpoint.update_message
    assert endpoint.config.served_entities[0].allow_code
    columns: Any = {
        "dep delay (min)": ("FP64", [3.0, 45.0, 60.0]),
        "carrier": ("BYTES", ["a", "b", "a"]),
    }
    result = await ask(registered, endpoint.name, **columns)
    assert result.as_numpy("output").tolist() == [[0], [1], [1]]
    # What the encoder never saw fails this request alone.
    columns["carrier"] = ("BYTES", ["a", "?", "a"])
    with pytest.raises(InferenceServerException, match="unknown categories"):
        await ask(registered, endpoint.name, **columns)


async def test_a_class_of_the_users_answers_with_a_table(registered: Serving) -> None:
    scope = unique_name("scope")
    secret = f"{{{{secrets/{scope}/greeting}}}}"
    missing = await create(registered, "doubled", allow_code=True, GREETING=secret)
    assert missing.state == endpoint_pb2.ENDPOINT_STATE_NOT_READY
    assert f"no secret {scope}/greeting" in missing.update_message
    folder = registered.stack.home.root / "secrets" / scope
    folder.mkdir(parents=True)
    (folder / "greeting").write_text("hi ")
    (folder / "_readers").write_text("*\n")
    endpoint = await create(registered, "doubled", allow_code=True, GREETING=secret)
    assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY, endpoint.update_message
    asked = [
        ask(registered, endpoint.name, n=("INT64", [i, i + 1]), text=("BYTES", ["ab", "çd"]))
        for i in range(8)
    ]
    for i, result in enumerate(await asyncio.gather(*asked)):
        assert result.as_numpy("twice").tolist() == [[2 * i], [2 * i + 2]]
        assert [one.decode() for one in result.as_numpy("back").ravel()] == [
            "hi ba",
            "hi dç",
        ]
    with pytest.raises(InferenceServerException, match="n must not be negative"):
        await ask(registered, endpoint.name, n=("INT64", [-1]), text=("BYTES", [""]))


async def test_a_graph_that_mlflow_logged_needs_no_permission(registered: Serving) -> None:
    endpoint = await create(registered, "graph", allow_code=False)
    assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY, endpoint.update_message
    x = np.ones((2, 4), np.float32)
    tensor = triton.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(x)
    result = await registered.gateway.infer(endpoint.name, [tensor], headers=registered.headers)
    np.testing.assert_allclose(result.as_numpy("scores"), x @ WEIGHTS, rtol=1e-5)


async def test_an_environment_that_cannot_be_made_fails_the_update(registered: Serving) -> None:
    endpoint = await create(registered, "old", allow_code=True)
    assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_NOT_READY
    assert endpoint.update_state == endpoint_pb2.UPDATE_STATE_FAILED
    assert "lacks scikit-learn==0.0.1" in endpoint.update_message
