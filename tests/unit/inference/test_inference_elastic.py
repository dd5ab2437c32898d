"""What nobody asks is unloaded, who asks loads it again, and nobody is turned away in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tritonclient.grpc import service_pb2

from services.inference.convert.endpoints import entity_requests
from services.inference.domain.endpoint import Device, InstanceGroup, WorkloadSize
from services.inference.domain.entity_rules import check_entities
from services.inference.domain.sizing import sized
from services.inference.errors import EntityBusy, InvalidConfig
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.nap import Nap, Naps
from services.inference.gateway.records import Exchange
from services.inference.handlers.elastic import Elastic, EntityState
from tessera.events.v1 import inference_events_pb2 as pb
from tessera.inference.v1 import endpoint_pb2
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import eventually
from tests.unit.inference.control import ADA, entity
from tests.unit.inference.gateway import Aborted, Context
from tests.unit.inference.test_inference_swaps import Platform

Make = Callable[..., Any]
IDLE = entity(1, scale_to_zero=True, idle_seconds=0.002)


class Elasticity(Platform):
    """The platform with what unloads and loads entities."""

    def __init__(self, manifest: dict[str, Any], make_request: Make) -> None:
        super().__init__(manifest, make_request)
        self.elastic = Elastic(
            routes=self.control.routes,
            models=self.control.runtime,
            deployer=self.control.deployer,
            metrics=GatewayMetrics(Metrics()),
            idle_seconds=3600.0,
            interval_seconds=0.001,
        )

    async def state(self) -> EntityState:
        endpoint = await self.control.endpoints.get("delays")
        (state,) = self.elastic.states(endpoint).values()
        return state

    async def asleep(self) -> bool:
        return await self.state() is EntityState.SCALED_TO_ZERO

    async def awake(self) -> bool:
        return await self.state() is EntityState.LOADED

    async def ask(self, remaining: float | None = None) -> Context:
        context = Context(remaining=remaining)
        await self.handler.infer(self.request, context)  # type: ignore[arg-type]
        return context

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(one()) for one in (self.elastic.run, self.control.deployer.run)
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
def platform(manifest: dict[str, Any], make_request: Make) -> Elasticity:
    return Elasticity(manifest, make_request)


async def test_an_idle_entity_is_unloaded_and_the_next_request_loads_it(
    platform: Elasticity,
) -> None:
    await platform.control.created(entities=[IDLE])
    async with platform.running():
        await eventually(platform.asleep)
        await eventually(lambda: platform.control.deployer.unloads == 1)
        assert await platform.control.runtime.loaded() == frozenset()
        await platform.ask()
        await eventually(platform.asleep)
    (record,) = [pb.PayloadRecord.FromString(data) for data in platform.capture.records]
    assert record.status_code == 0
    assert record.queue_duration_us > 0
    assert record.execution_duration_us < record.duration_us


async def test_no_request_meets_the_moment_between_unloading_and_arriving(
    platform: Elasticity,
) -> None:
    await platform.control.created(entities=[IDLE])
    chance = random.Random(7)  # noqa: S311 - no secret

    async def visit() -> int:
        answered = 0
        while platform.control.deployer.unloads < 10:
            await platform.ask()
            answered += 1
            await asyncio.sleep(chance.uniform(0.0, 0.012))
        return answered

    async with platform.running():
        await platform.stop([asyncio.create_task(visit()) for _ in range(3)])


async def test_what_another_process_unloaded_is_loaded_by_who_asks(platform: Elasticity) -> None:
    await platform.control.created(entities=[replace(IDLE, idle_seconds=0.0)])
    (name,) = await platform.control.runtime.loaded()
    async with platform.running():
        await platform.ask()
        await platform.control.runtime.unload(name)
        await platform.ask()
        assert await platform.state() is EntityState.LOADED
        await platform.control.runtime.unload(name)
        await eventually(platform.asleep)
        entity_loaded = await platform.control.bundles.get(name)
        assert entity_loaded is not None
        await platform.control.runtime.load(name, entity_loaded.config, entity_loaded.files)
        await eventually(platform.awake)


async def test_a_streamed_answer_waits_for_its_model_too(platform: Elasticity) -> None:
    await platform.control.created(entities=[IDLE])

    async def streamed(request: bytes) -> AsyncGenerator[bytes]:
        yield await platform.answer(request)
        yield b""

    platform.control.runtime.streamed = streamed
    async with platform.running():
        await eventually(platform.asleep)
        exchange = Exchange("r1", platform.request)
        route = platform.control.routes.find("delays")
        request = service_pb2.ModelInferRequest(model_name="delays")
        asked: list[int] = []
        responses = platform.dispatcher.stream(
            exchange, route, request, (), 60.0, lambda: asked.append(exchange.model_began)
        )
        assert len([one async for one in responses]) == 2
    assert exchange.queue_us > 0
    assert asked[-1] == exchange.model_began


async def test_one_that_cannot_be_loaded_again_says_why(platform: Elasticity) -> None:
    await platform.control.created(entities=[IDLE])
    async with platform.running():
        await eventually(platform.asleep)
        platform.control.runtime.refuse(b"", "no room for it")
        context = Context()
        with pytest.raises(Aborted):
            await platform.handler.infer(platform.request, context)  # type: ignore[arg-type]
        assert context.reason == "RUNTIME_UNAVAILABLE"
        assert "no room for it" in context.details
        assert await platform.asleep()


async def test_the_deadline_bounds_the_wait(platform: Elasticity) -> None:
    await platform.control.created(entities=[IDLE])
    async with platform.running():
        await eventually(platform.asleep)
        platform.control.runtime.up = False
        context = Context(remaining=0.02)
        with pytest.raises(Aborted):
            await platform.handler.infer(platform.request, context)  # type: ignore[arg-type]
        assert context.reason == "INFERENCE_TIMEOUT"
        assert await platform.state() is EntityState.LOADING
        platform.control.runtime.up = True
        await platform.ask()


async def test_so_many_wait_and_no_more(platform: Elasticity) -> None:
    endpoint = await platform.control.created(entities=[IDLE])
    assert endpoint.config is not None
    nap = Nap(endpoint.config.entities[0], "ada", Naps(), most_waiting=2)
    nap.lie_down()

    async def answer(_: float) -> bytes:
        return b"answer"

    waiting = [asyncio.create_task(nap.ask(answer, 60.0)) for _ in range(2)]
    await eventually(lambda: nap.waiting == 2)
    with pytest.raises(EntityBusy, match="2 requests wait"):
        await nap.ask(answer, 60.0)
    nap.wake()
    assert await asyncio.gather(*waiting) == [b"answer"] * 2


async def test_an_entity_that_sleeps_is_replaced_as_any_other(platform: Elasticity) -> None:
    await platform.control.created(entities=[IDLE])
    async with platform.running():
        await eventually(platform.asleep)
        await platform.control.handlers.update_config(ADA, "delays", [entity(2)], "")
        await platform.control.deployer.idle()
        await platform.ask()
    (record,) = [pb.PayloadRecord.FromString(data) for data in platform.capture.records]
    assert record.model_version == 2


@pytest.mark.parametrize(
    ("asked", "batched", "instances", "bounds"),
    [
        ({}, True, 1, (0, 0, 0)),
        ({"workload_size": WorkloadSize.SMALL}, True, 1, (4, 4, 4)),
        ({"workload_size": WorkloadSize.MEDIUM}, True, 2, (8, 16, 16)),
        ({"workload_size": WorkloadSize.LARGE}, True, 4, (16, 64, 64)),
        ({"workload_size": WorkloadSize.MEDIUM}, False, 8, (8, 16, 16)),
        ({"workload_size": WorkloadSize.LARGE, "max_concurrency": 2}, True, 1, (2, 2, 2)),
        ({"workload_size": WorkloadSize.SMALL, "min_concurrency": 9}, True, 3, (9, 9, 9)),
        ({"workload_size": WorkloadSize.SMALL, "instance_count": 3}, True, 3, (4, 4, 4)),
        ({"min_concurrency": 9}, True, 3, (9, 0, 0)),
        ({"min_concurrency": 9, "max_concurrency": 9, "max_queue": 1}, False, 9, (9, 9, 1)),
    ],
)
def test_instances_follow_from_the_requests_at_once(
    asked: dict[str, Any], batched: bool, instances: int, bounds: tuple[int, int, int]
) -> None:
    found = sized(entity(**{"instance_count": 0, **asked}), batched=batched)
    assert found.instance_count == instances
    assert (found.min_concurrency, found.max_concurrency, found.max_queue) == bounds
    assert sized(found, batched=batched) == found


def test_groups_of_instances_go_before_the_size() -> None:
    groups = (InstanceGroup(Device.CPU, 3),)
    found = sized(
        entity(instance_count=0, instance_groups=groups, workload_size=WorkloadSize.LARGE),
        batched=True,
    )
    assert found.instance_groups == groups
    assert found.max_concurrency == 64


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"min_concurrency": 5, "max_concurrency": 4}, "min_concurrency"),
        ({"idle_seconds": 9.0}, "scale_to_zero_after"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig, match=field):
        check_entities([entity(**wrong)])


@pytest.mark.parametrize("seconds", [0, 8 * 24 * 3600])
def test_an_idle_time_out_of_bounds_is_refused(seconds: int) -> None:
    asked = endpoint_pb2.ServedEntity(
        scale_to_zero=True, scale_to_zero_after=Duration(seconds=seconds)
    )
    with pytest.raises(InvalidConfig, match="scale_to_zero_after"):
        entity_requests(endpoint_pb2.EndpointConfig(served_entities=[asked]))
