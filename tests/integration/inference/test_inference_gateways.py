"""Two processes of the service over one database and one Triton: one platform to their callers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import tritonclient.grpc.aio as triton
from aiokafka import AIOKafkaConsumer
from google.protobuf.field_mask_pb2 import FieldMask
from tritonclient.utils import InferenceServerException

from devstack import Stack, start_local
from devstack.runtime import Runtime
from tessera.catalog.v1 import authorization_service_pb2, securable_pb2
from tessera.events.v1 import inference_events_pb2 as events
from tessera.inference.v1 import endpoint_pb2, inference_service_pb2
from tessera_kit.config import KafkaConfig
from tests.helpers import eventually, unique_name
from tests.integration.inference.beside import Beside
from tests.integration.inference.models import exported
from tests.integration.inference.requests import inputs
from tests.integration.inference.serving import Serving
from tests.integration.inference.test_inference_serving import X, rows_of
from tests.integration.inference.traffic import Traffic

pytestmark = pytest.mark.timeout(300)

CALLS = 400
"""Of a rate limit's window."""


@pytest.fixture(scope="module")
async def stack(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """One whose Triton is a process, as in a cluster: several gateways can ask it."""
    if pytestconfig.getoption("--stack") != "local":
        pytest.skip("the stack's processes are not on this machine")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TESSERA_RUNTIME", Runtime.PROCESS)
        async with start_local(tmp_path_factory.mktemp("apart"), services=()) as stack:
            yield stack


@pytest.fixture(scope="module")
def local_stack(stack: Stack) -> Stack:
    """The same, as this one is on this machine."""
    return stack


@pytest.fixture(scope="module")
async def beside(serving: Serving, local_stack: Stack) -> AsyncIterator[Beside]:
    beside = Beside(local_stack, serving.token)
    await beside.start()
    yield beside
    await beside.close()


@pytest.fixture(scope="module")
async def versions(serving: Serving) -> list[int]:
    return [await serving.add_version(), await serving.add_version(exported(1.0))]


@pytest.fixture(scope="module")
async def endpoint(serving: Serving, beside: Beside, versions: list[int]) -> str:
    """An endpoint with the first version, that both processes answer."""
    name = await serving.create(versions[:1])
    await eventually(lambda: beside.gateway.is_model_ready(name, headers=serving.headers))
    return name


async def test_many_at_once_leave_together_for_triton(
    serving: Serving, versions: list[int], client: triton.InferenceServerClient
) -> None:
    name = await serving.create(versions[:1])

    async def counted() -> tuple[int, int]:
        models = (await client.get_inference_statistics()).model_stats
        requests = sum(model.inference_stats.success.count for model in models)
        return sum(model.inference_count for model in models), requests

    rows_before, requests_before = await counted()
    asked = (version_of(serving, serving.gateway, name) for _ in range(240))
    assert set(await asyncio.gather(*asked)) == set(versions[:1])

    async def all_counted() -> int:
        # It counts a request after its answer has left.
        rows, requests = await counted()
        assert rows - rows_before == 240 * len(X)
        return requests - requests_before

    assert await eventually(all_counted) < 240


async def version_of(serving: Serving, gateway: triton.InferenceServerClient, name: str) -> int:
    """The version that answers through a gateway."""
    result = await gateway.infer(
        name, inputs(X, ["UA"]), headers=serving.headers, client_timeout=60
    )
    return int(result.get_response().model_version)


async def test_changes_and_canaries_are_followed_by_both(
    serving: Serving, beside: Beside, endpoint: str, versions: list[int]
) -> None:
    old, new = versions
    both = (serving.gateway, beside.gateway)
    callers = [Traffic(serving, endpoint, workers=1, gateway=gateway) for gateway in both]

    async def answer(version: int) -> bool:
        return [await version_of(serving, gateway, endpoint) for gateway in both] == [version] * 2

    assert await answer(old)
    await beside.endpoints.UpdateEndpointConfig(
        inference_service_pb2.UpdateEndpointConfigRequest(
            name=endpoint, config=serving.config(versions[::-1], (100, 0))
        )
    )
    await eventually(lambda: answer(new), timeout=60)
    settled = await serving.settled(endpoint)
    plan = endpoint_pb2.CanaryPlan(
        served_entity=settled.config.served_entities[1].name,
        steps=[
            endpoint_pb2.CanaryStep(percent=50, request_count=20),
            endpoint_pb2.CanaryStep(percent=100),
        ],
    )
    await serving.endpoints.StartCanary(
        inference_service_pb2.StartCanaryRequest(name=endpoint, plan=plan)
    )
    await eventually(lambda: answer(old), timeout=60)
    await asyncio.gather(*(caller.more(5) for caller in callers))
    await asyncio.gather(*(caller.stop() for caller in callers))
    assert [caller.refused for caller in callers] == [Counter(), Counter()]
    told = await steps_of(serving, endpoint, events.ENDPOINT_STEP_CANARY_SUCCEEDED)
    assert told == {
        events.ENDPOINT_STEP_CREATED: 1,
        events.ENDPOINT_STEP_UPDATE_STARTED: 1,
        events.ENDPOINT_STEP_UPDATE_READY: 2,
        events.ENDPOINT_STEP_CANARY_STARTED: 1,
        events.ENDPOINT_STEP_CANARY_ADVANCED: 1,
        events.ENDPOINT_STEP_CANARY_SUCCEEDED: 1,
    }


async def steps_of(serving: Serving, endpoint: str, last: int) -> Counter[int]:
    """The steps that were told of an endpoint until one, each event counted once."""
    consumer = AIOKafkaConsumer(
        "tessera.inference.endpoint.v1",
        bootstrap_servers=KafkaConfig.from_env(serving.stack.environment).bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    steps: dict[bytes, int] = {}
    try:
        async with asyncio.timeout(60):
            async for message in consumer:
                if message.key == endpoint.encode():
                    told = events.EndpointChanged.FromString(message.value)
                    steps[dict(message.headers)["ce_id"]] = told.step
                    if told.step == last:
                        return Counter(steps.values())
    finally:
        await consumer.stop()
    raise AssertionError("the consumer ended")


async def test_a_limit_is_exact_over_both(serving: Serving, beside: Beside, endpoint: str) -> None:
    while True:
        hour = time.time() // 3600
        admitted = await admitted_of(serving, beside, endpoint)
        if time.time() // 3600 == hour:
            break
    assert 0.99 * CALLS <= admitted <= CALLS


async def admitted_of(serving: Serving, beside: Beside, endpoint: str) -> int:
    """How many requests of a new user both admit together of `CALLS` an hour."""
    user = unique_name("user")
    headers = {"authorization": f"Bearer {await serving.add_user(user)}"}
    await serving.authorization.UpdateGrants(
        authorization_service_pb2.UpdateGrantsRequest(
            securable=securable_pb2.SecurableReference(
                type=securable_pb2.SECURABLE_TYPE_ENDPOINT, full_name=endpoint
            ),
            add=[
                authorization_service_pb2.Grant(
                    principal=user, privilege=securable_pb2.PRIVILEGE_EXECUTE
                )
            ],
        )
    )
    count = 0

    async def is_admitted(gateway: triton.InferenceServerClient) -> bool:
        nonlocal count
        try:
            await gateway.infer(endpoint, inputs(X, ["UA"]), headers=headers, client_timeout=60)
        except InferenceServerException as error:
            assert error.status() == "StatusCode.RESOURCE_EXHAUSTED", error
            return False
        count += 1
        return True

    async def is_refused(gateway: triton.InferenceServerClient) -> bool:
        return not await is_admitted(gateway)

    both = (serving.gateway, beside.gateway)
    await limit(serving, endpoint, user, 0)
    for gateway in both:
        await eventually(lambda gateway=gateway: is_refused(gateway), timeout=30)
    count = 0
    await limit(serving, endpoint, user, CALLS)
    for gateway in both:
        await eventually(lambda gateway=gateway: is_admitted(gateway), timeout=30)

    async def ask(gateway: triton.InferenceServerClient, times: int) -> None:
        for _ in range(times):
            await is_admitted(gateway)

    # One of them gets three times as many as the other.
    await asyncio.gather(
        *(ask(serving.gateway, CALLS // 4) for _ in range(3)), ask(beside.gateway, CALLS // 3)
    )
    await asyncio.gather(*(ask(gateway, 20) for gateway in both))
    return count


async def limit(serving: Serving, endpoint: str, user: str, calls: int) -> None:
    rule = endpoint_pb2.RateLimit(
        scope=endpoint_pb2.RATE_LIMIT_SCOPE_USER,
        subject=user,
        period=endpoint_pb2.RATE_LIMIT_PERIOD_HOUR,
        calls=calls,
    )
    await serving.endpoints.UpdateEndpoint(
        inference_service_pb2.UpdateEndpointRequest(
            endpoint=endpoint_pb2.Endpoint(name=endpoint, rate_limits=[rule]),
            update_mask=FieldMask(paths=["rate_limits"]),
        )
    )


async def test_one_that_is_killed_under_load_loses_and_doubles_no_row(
    serving: Serving, beside: Beside, endpoint: str
) -> None:
    other = Traffic(serving, endpoint, workers=2)
    killed = Traffic(serving, endpoint, workers=2, gateway=beside.gateway)
    await killed.more(50)
    await beside.kill()
    await other.more(50)
    # What its spool holds its shipper sends; what it had not begun to answer is nobody's.
    await beside.start()
    await asyncio.gather(killed.more(50), other.more(50))
    await asyncio.gather(killed.stop(), other.stop())
    assert not other.refused
    answered = [*other.answered, *killed.answered]
    rows = await rows_of(serving, endpoint, answered, timeout=120)
    found = Counter(row["tessera_request_id"] for row in rows)
    doubled = [identifier for identifier, count in found.items() if count > 1]
    assert (set(answered) - set(found), doubled) == (set(), [])


async def test_a_runtime_that_has_grown_is_replaced_and_no_request_of_either_fails(
    serving: Serving, beside: Beside, local_stack: Stack, endpoint: str
) -> None:
    await beside.kill()
    await beside.start(TESSERA_INFERENCE_RUNTIME_GROWTH_MIB="1")
    before = local_stack.process("triton")
    both = (serving.gateway, beside.gateway)
    callers = [Traffic(serving, endpoint, workers=4, gateway=gateway) for gateway in both]
    await asyncio.gather(*(caller.more(10) for caller in callers))

    def is_replaced() -> bool:
        return local_stack.process("triton").pid not in {before.pid, None}

    # Its heap keeps some of what large requests took, and some of each model that it unloads.
    large = inputs(X * 8192, ["UA"] * 8192)
    await asyncio.gather(
        *(beside.gateway.infer(endpoint, large, headers=serving.headers) for _ in range(32))
    )
    while not is_replaced():
        await beside.endpoints.RollbackEndpoint(
            inference_service_pb2.RollbackEndpointRequest(name=endpoint, config_version=1)
        )
        await serving.settled(endpoint)
        with contextlib.suppress(AssertionError):
            await eventually(is_replaced, timeout=10)
    await asyncio.gather(*(caller.more(20) for caller in callers))
    await asyncio.gather(*(caller.stop() for caller in callers))
    assert [caller.refused for caller in callers] == [Counter(), Counter()]
    log = local_stack.home.log_file("inference-beside").read_text()
    assert "the runtime has grown from" in log
    await local_stack.wait_healthy("triton")
