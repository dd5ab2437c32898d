"""What an endpoint sets of the runtime, in the real one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferInput, service_pb2

from services.inference.adapters.triton.models import TritonModels
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.signature import parse_manifest
from services.inference.errors import InvalidInference
from services.inference.gateway.sequences import sequence_field
from services.inference.ports import Runtime, RuntimeModels
from services.inference.runtime.bundle import make_bundle
from tests.helpers import unique_name
from tests.onnx_graphs import WEIGHTS, linear_graph

pytestmark = pytest.mark.timeout(240)

MANIFEST = {
    "flavor": "onnx",
    "file": "delay.onnx",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "carrier", "datatype": "BYTES", "shape": [-1, 1]},
    ],
    "outputs": [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "echo", "datatype": "BYTES", "shape": [-1, 1]},
    ],
}
EXAMPLE = {"inputs": {"x": [[1, 2, 3, 4], [5, 6, 7, 8]], "carrier": ["AA", "ü"]}}


async def load(models: RuntimeModels, options: RuntimeOptions) -> str:
    name = unique_name("options").replace("_", "-")
    sources = {
        "delay.onnx": linear_graph(texts=True),
        "example.json": json.dumps(EXAMPLE).encode(),
    }
    signature = parse_manifest(json.dumps(MANIFEST).encode())
    bundle = make_bundle(name, signature, 1, sources, options=options)
    await models.load(name, bundle.config, bundle.files)
    return name


def inputs(value: float) -> list[Any]:
    x, carrier = InferInput("x", [1, 4], "FP32"), InferInput("carrier", [1, 1], "BYTES")
    x.set_data_from_numpy(np.full((1, 4), value, np.float32))
    carrier.set_data_from_numpy(np.array([["AA"]], object))
    return [x, carrier]


async def test_a_cached_and_warmed_model_runs_once_for_equal_requests(
    process_models: TritonModels, client: triton.InferenceServerClient
) -> None:
    options = RuntimeOptions(
        max_batch_size=64,
        preferred_batch_sizes=(16, 32),
        max_queue_delay_us=1000,
        response_cache=True,
        warm_up_count=3,
    )
    name = await load(process_models, options)
    config = (await client.get_model_config(name)).config
    assert (config.max_batch_size, config.response_cache.enable) == (64, True)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    for value in (1, 2, 1, 1):
        result = await client.infer(name, inputs(value))
        want = np.full((1, 4), value, np.float32) @ WEIGHTS
        np.testing.assert_allclose(result.as_numpy("scores"), want, rtol=1e-5)
    (told,) = (await client.get_inference_statistics(name)).model_stats
    found = told.inference_stats
    assert (found.cache_hit.count, found.cache_miss.count) == (2, 2)
    await process_models.unload(name)


async def test_a_model_that_keeps_state_is_asked_by_sequence(
    models: RuntimeModels, runtime: Runtime
) -> None:
    name = await load(models, RuntimeOptions(max_batch_size=8, sequences=SequenceOptions()))
    request: Any = service_pb2.ModelInferRequest(model_name=name)
    for one in inputs(1):
        request.inputs.append(one._get_tensor())
        request.raw_input_contents.append(one._get_content())
    with pytest.raises(InvalidInference):
        await runtime.infer(request.SerializeToString(), 60)
    for start, end in ((True, False), (False, False), (False, True)):
        request.parameters["sequence_id"].int64_param = 3
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = end
        told = request.SerializeToString() + sequence_field("0123456789abcdef")
        reply = service_pb2.ModelInferResponse.FromString(await runtime.infer(told, 60))
        assert [output.name for output in reply.outputs] == ["scores", "echo"]
    # A sequence that was not begun: Triton knows it by the name that it was given last.
    request.parameters["sequence_end"].bool_param = False
    with pytest.raises(InvalidInference):
        await runtime.infer(request.SerializeToString() + sequence_field("another"), 60)
    await models.unload(name)
