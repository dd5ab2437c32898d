"""On the real runtime: swaps under load, mirrors, limits and canaries, through the doors."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tritonclient.utils import InferenceServerException

from tessera.inference.v1 import endpoint_pb2, inference_service_pb2
from tests.helpers import eventually, unique_name
from tests.integration.inference.models import exported
from tests.integration.inference.requests import inputs
from tests.integration.inference.serving import Serving
from tests.onnx_graphs import WEIGHTS, linear_graph

pytestmark = pytest.mark.timeout(300)

X = [[0.1, 0.2, 0.3, 0.4]]
WORKERS = 2
SWAPS = 100
OLD, NEW = "champion", "challenger"


@pytest.fixture(scope="module")
async def endpoint(serving: Serving) -> str:
    """An endpoint with two versions, all traffic on the first."""
    versions = [await serving.add_version(), await serving.add_version(exported(1.0))]
    name = unique_name("endpoint").replace("_", "-")
    await serving.endpoints.CreateEndpoint(
        inference_service_pb2.CreateEndpointRequest(
            name=name,
            config=config(serving, versions),
            inference_table=endpoint_pb2.InferenceTableConfig(schema_full_name=serving.schema),
            tags={"team": "flights"},
        )
    )
    made = await serving.settled(name)
    assert made.state == endpoint_pb2.ENDPOINT_STATE_READY, made.update_message
    assert dict(made.tags) == {"team": "flights"}
    return name


def config(serving: Serving, versions: list[int]) -> Any:
    return endpoint_pb2.EndpointConfig(
        served_entities=[
            endpoint_pb2.ServedEntity(
                name=name, model_name=serving.model, model_version=version, traffic_percent=share
            )
            for name, version, share in zip((OLD, NEW), versions, (100, 0), strict=True)
        ]
    )


async def ask(serving: Serving, name: str) -> str:
    """The model version that answered."""
    result = await serving.gateway.infer(
        name, inputs(X, ["UA"]), headers=serving.headers, client_timeout=60
    )
    version: str = result.get_response().model_version
    return version


async def move(serving: Serving, name: str, old: int, **changes: Any) -> Any:
    shares = {OLD: old, NEW: 100 - old}
    response = await serving.endpoints.UpdateTraffic(
        inference_service_pb2.UpdateTrafficRequest(name=name, traffic_percent=shares, **changes)
    )
    return response.endpoint


async def test_swaps_under_load_fail_no_request(serving: Serving, endpoint: str) -> None:
    """19 changes of the shares, and a configuration whose models are loaded meanwhile."""
    stopped = asyncio.Event()

    async def work() -> list[str]:
        answers = []
        while not stopped.is_set():
            answers.append(await ask(serving, endpoint))
        return answers

    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    await serving.endpoints.RollbackEndpoint(
        inference_service_pb2.RollbackEndpointRequest(name=endpoint, config_version=1)
    )
    for number in range(18):
        await move(serving, endpoint, number % 2 * 100)
    settled = await serving.settled(endpoint)
    await move(serving, endpoint, 100)
    stopped.set()
    answers = [answer for done in await asyncio.gather(*workers) for answer in done]
    assert (settled.config.config_version, settled.config.rollback_of) == (2, 1)
    assert settled.update_state == endpoint_pb2.UPDATE_STATE_NOT_UPDATING
    assert len(set(answers)) == 2
    history = await serving.endpoints.ListEndpointConfigs(
        inference_service_pb2.ListEndpointConfigsRequest(name=endpoint)
    )
    assert [one.config_version for one in history.configs] == [2, 1]
    counts = await eventually(lambda: all_rows(serving, endpoint, len(answers)), timeout=60)
    assert counts.error_count == 0
    assert counts.distinct_request_count == counts.row_count


@pytest.mark.timeout(900)
async def test_a_hundred_models_loaded_and_unloaded_under_load_fail_no_request(
    serving: Serving,
) -> None:
    """Each swap is a configuration of its own, whose model the runtime loads; the last one's goes.

    The models are ONNX graphs, whose processes begin soonest.
    """
    graph = {
        **{"flavor": "onnx", "file": "model.onnx"},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "role": "FEATURE"}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
    }
    versions = [await serving.add_version(linear_graph(), **graph) for _ in range(2)]
    name = await serving.create(versions[:1])
    asked = triton.InferInput("x", [1, 4], "FP32")
    asked.set_data_from_numpy(np.array(X, np.float32))
    stopped = asyncio.Event()
    answers: list[str] = []

    async def answer() -> str:
        result = await serving.gateway.infer(
            name, [asked], headers=serving.headers, client_timeout=60
        )
        np.testing.assert_allclose(
            result.as_numpy("scores"), np.asarray(X, np.float32) @ WEIGHTS, rtol=1e-6
        )
        version: str = result.get_response().model_version
        answers.append(version)
        return version

    async def work() -> None:
        while not stopped.is_set():
            await answer()

    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    for number in range(1, SWAPS + 1):
        version = versions[number % 2]
        await serving.endpoints.UpdateEndpointConfig(
            inference_service_pb2.UpdateEndpointConfigRequest(
                name=name, config=serving.config([version], [100])
            )
        )
        settled = await serving.settled(name)
        assert settled.config.config_version == number + 1, settled.update_message
        assert await answer() == str(version)
    stopped.set()
    await asyncio.gather(*workers)
    assert len(answers) > SWAPS * WORKERS
    counts = await eventually(lambda: all_rows(serving, name, len(answers)), timeout=60)
    assert (counts.error_count, counts.row_count) == (0, len(answers))
    assert counts.distinct_request_count == len(answers)


async def all_rows(serving: Serving, endpoint: str, least: int) -> Any:
    counts = await serving.statistics(endpoint)
    return counts if counts.row_count >= least else None


async def test_an_idle_model_leaves_the_runtime_and_comes_back_for_all_who_ask(
    serving: Serving,
) -> None:
    version = await serving.add_version()
    name = unique_name("endpoint").replace("_", "-")
    entity = endpoint_pb2.ServedEntity(
        name=OLD,
        model_name=serving.model,
        model_version=version,
        traffic_percent=100,
        workload_size=endpoint_pb2.WORKLOAD_SIZE_SMALL,
        scale_to_zero=True,
        scale_to_zero_after=Duration(seconds=1),
    )
    await serving.endpoints.CreateEndpoint(
        inference_service_pb2.CreateEndpointRequest(
            name=name,
            config=endpoint_pb2.EndpointConfig(served_entities=[entity]),
            inference_table=endpoint_pb2.InferenceTableConfig(schema_full_name=serving.schema),
        )
    )
    settled = await serving.settled(name)
    assert settled.state == endpoint_pb2.ENDPOINT_STATE_READY, settled.update_message
    (served,) = settled.config.served_entities
    assert (served.min_concurrency, served.max_concurrency, served.max_queue) == (4, 4, 4)
    assert served.instance_count == 1

    async def asleep() -> bool:
        found = await serving.endpoints.GetEndpoint(
            inference_service_pb2.GetEndpointRequest(name=name)
        )
        state = found.endpoint.config.served_entities[0].state
        return bool(state == endpoint_pb2.SERVED_ENTITY_STATE_SCALED_TO_ZERO)

    await eventually(asleep, timeout=60)
    answers = await asyncio.gather(*(ask(serving, name) for _ in range(8)))
    assert set(answers) == {str(version)}
    counts = await eventually(lambda: all_rows(serving, name, 8), timeout=60)
    assert (counts.row_count, counts.error_count) == (8, 0)


async def test_a_mirror_is_asked_and_kept_beside_its_original(
    serving: Serving, endpoint: str
) -> None:
    before = await serving.statistics(endpoint)
    await move(serving, endpoint, 100, shadow_percent={NEW: 50})
    assert len({await ask(serving, endpoint) for _ in range(10)}) == 1
    after = await eventually(lambda: all_rows(serving, endpoint, before.row_count + 15), timeout=60)
    await move(serving, endpoint, 100, shadow_percent={NEW: 0})
    assert after.row_count - before.row_count == 15
    assert after.error_count == before.error_count


async def test_a_canary_goes_its_steps_by_what_the_table_shows(
    serving: Serving, endpoint: str
) -> None:
    plan = endpoint_pb2.CanaryPlan(
        served_entity=NEW,
        steps=[
            endpoint_pb2.CanaryStep(percent=50, request_count=5),
            endpoint_pb2.CanaryStep(percent=100),
        ],
        guards=endpoint_pb2.CanaryGuards(max_error_rate=0.5, min_request_count=5),
    )
    await serving.endpoints.StartCanary(
        inference_service_pb2.StartCanaryRequest(name=endpoint, plan=plan)
    )

    async def ended() -> Any:
        await ask(serving, endpoint)
        found = await serving.endpoints.GetEndpoint(
            inference_service_pb2.GetEndpointRequest(name=endpoint)
        )
        state = found.endpoint.canary.state
        return found.endpoint if state != endpoint_pb2.CANARY_STATE_RUNNING else None

    done = await eventually(ended, timeout=120)
    assert done.canary.state == endpoint_pb2.CANARY_STATE_SUCCEEDED
    assert [one.traffic_percent for one in done.config.served_entities] == [0, 100]


async def test_a_limit_holds_at_once_and_is_lifted_at_once(serving: Serving, endpoint: str) -> None:
    async def limit(*limits: Any) -> None:
        changed = endpoint_pb2.Endpoint(name=endpoint, rate_limits=limits)
        await serving.endpoints.UpdateEndpoint(
            inference_service_pb2.UpdateEndpointRequest(
                endpoint=changed, update_mask=FieldMask(paths=["rate_limits"])
            )
        )

    none = endpoint_pb2.RateLimit(
        scope=endpoint_pb2.RATE_LIMIT_SCOPE_ENDPOINT,
        period=endpoint_pb2.RATE_LIMIT_PERIOD_HOUR,
        calls=0,
    )
    few = endpoint_pb2.RateLimit(
        scope=endpoint_pb2.RATE_LIMIT_SCOPE_TOKEN,
        period=endpoint_pb2.RATE_LIMIT_PERIOD_HOUR,
        calls=2,
    )
    before = await serving.statistics(endpoint)
    await limit(none)
    with pytest.raises(InferenceServerException, match="its limit is 0"):
        await ask(serving, endpoint)
    await limit(few)
    for _ in range(2):
        await ask(serving, endpoint)
    with pytest.raises(InferenceServerException, match="2 calls of token in this hour"):
        await ask(serving, endpoint)
    await limit()
    await ask(serving, endpoint)

    async def refusals() -> bool:
        counts = await serving.statistics(endpoint)
        return bool(counts.error_count - before.error_count == 2)

    await eventually(refusals, timeout=60)
