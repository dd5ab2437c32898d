"""How requests are led: by a key, to shadows, and to others when an entity fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from services.inference.domain.endpoint import Endpoint
from services.inference.domain.traffic import TrafficPolicy, check_policy
from services.inference.errors import InvalidConfig, ModelFailed, RuntimeUnavailable
from tessera.events.v1 import inference_events_pb2 as pb
from tests.unit.inference.gateway import Context, Gateway

Make = Callable[..., Any]
FALLBACK_CODES = frozenset({8, 13, 14})


def changed(endpoint: Endpoint, traffic: TrafficPolicy | None = None, **entity: Any) -> Endpoint:
    """The endpoint with other rules, and its last entity changed."""
    config = endpoint.config
    assert config is not None
    entities = (*config.entities[:-1], replace(config.entities[-1], **entity))
    config = replace(config, entities=entities, traffic=traffic or config.traffic)
    return replace(endpoint, config=config)


def failing(gateway: Gateway, names: dict[str, Exception]) -> None:
    """Let some of the runtime's models fail."""
    answer = gateway.answer

    async def fail(request: bytes) -> bytes:
        name = service_pb2.ModelInferRequest.FromString(request).model_name
        if name in names:
            raise names[name]
        return await answer(request)

    gateway.answer = fail


def with_key(key: str) -> Context:
    context = Context()
    context.metadata.append(("tessera-sticky-key", key))
    return context


async def test_shares_are_exact_over_ten_thousand_requests(make_endpoint: Make) -> None:
    gateway = Gateway(make_endpoint(shares=(73, 20, 7)))
    route = gateway.routes.find("flights")
    seen = Counter(route.choose("").model_version for _ in range(10_000))
    assert seen == {1: 7300, 2: 2000, 3: 700}


async def test_a_key_stays_with_its_entity(make_endpoint: Make, make_request: Make) -> None:
    gateway = Gateway(changed(make_endpoint(shares=(50, 50)), TrafficPolicy(sticky=True)))
    for key in map(str, range(10)):
        for _ in range(3):
            await gateway.infer(make_request(), with_key(key))
    served = [record.served_entity for record in gateway.records]
    assert all(len(set(served[start : start + 3])) == 1 for start in range(0, 30, 3))
    assert len(set(served)) == 2
    reply = await gateway.infer(make_request(), Context())
    assert reply.model_version in {"1", "2"}


async def test_without_stickiness_a_key_means_nothing(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(make_endpoint(shares=(50, 50)))
    for _ in range(4):
        await gateway.infer(make_request(), with_key("ada"))
    assert Counter(record.model_version for record in gateway.records) == {1: 2, 2: 2}


async def test_a_shadow_is_asked_and_kept_but_never_answers(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(changed(make_endpoint(shares=(100, 0)), shadow_percent=50))
    for _ in range(10):
        reply = await gateway.infer(make_request(request_id="mine"), Context())
        assert reply.model_version == "1"
    await gateway.shadows.idle()
    by_route: dict[int, list[pb.PayloadRecord]] = {}
    for record in gateway.records:
        by_route.setdefault(record.route, []).append(record)
    primary = by_route[pb.PAYLOAD_ROUTE_PRIMARY]
    shadows = by_route[pb.PAYLOAD_ROUTE_SHADOW]
    assert (len(primary), len(shadows)) == (10, 5)
    family = {f"{record.tessera_request_id}.s0" for record in primary}
    assert {record.tessera_request_id for record in shadows} < family
    assert {record.model_version for record in shadows} == {2}
    one = shadows[0]
    assert (one.requester, one.client_request_id, one.status_code) == ("alice", "mine", 0)
    assert one.request
    assert service_pb2.ModelInferResponse.FromString(one.response).model_version == "2"


async def test_a_slow_or_failing_shadow_does_not_touch_its_original(
    make_endpoint: Make, make_request: Make
) -> None:
    endpoint = changed(make_endpoint(shares=(100, 0)), shadow_percent=100, max_concurrency=2)
    gateway = Gateway(endpoint)
    release = asyncio.Event()
    answer = gateway.answer

    async def slow(request: bytes) -> bytes:
        if service_pb2.ModelInferRequest.FromString(request).model_name.endswith("-1"):
            await release.wait()
            raise ModelFailed("the model failed: ValueError: no")
        return await answer(request)

    gateway.answer = slow
    for _ in range(5):
        await gateway.infer(make_request(), Context())
    assert [record.route for record in gateway.records] == [pb.PAYLOAD_ROUTE_PRIMARY] * 5
    release.set()
    await gateway.shadows.idle()
    shadows = [record for record in gateway.records if record.route == pb.PAYLOAD_ROUTE_SHADOW]
    assert [record.status_code for record in shadows] == [13, 13], "the others were left out"
    assert (
        gateway.metrics.registry.get_sample_value(
            "tessera_inference_shadows_total",
            {
                "tessera_endpoint_name": "flights",
                "tessera_served_entity_name": "delay-2",
                "tessera_outcome": "dropped",
            },
        )
        == 3
    )


async def test_what_is_stopped_leaves_a_row_of_its_shadow(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(changed(make_endpoint(shares=(100, 0)), shadow_percent=100))
    answer = gateway.answer

    async def stuck(request: bytes) -> bytes:
        if service_pb2.ModelInferRequest.FromString(request).model_name.endswith("-1"):
            await asyncio.Event().wait()
        return await answer(request)

    gateway.answer = stuck
    running = asyncio.create_task(gateway.shadows.run())
    await gateway.infer(make_request(), Context())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert [(record.route, record.status_code) for record in gateway.records] == [
        (pb.PAYLOAD_ROUTE_PRIMARY, 0),
        (pb.PAYLOAD_ROUTE_SHADOW, 1),
    ]


async def test_another_entity_answers_for_a_failed_one(
    make_endpoint: Make, make_request: Make
) -> None:
    policy = TrafficPolicy(fallback_codes=FALLBACK_CODES, fallback_attempts=2)
    gateway = Gateway(changed(make_endpoint(shares=(100, 0, 0)), policy))
    failing(
        gateway,
        {
            "tessera-flights-1-0": RuntimeUnavailable("away"),
            "tessera-flights-1-1": ModelFailed("the model failed"),
        },
    )
    reply = await gateway.infer(make_request(), Context())
    assert reply.model_version == "3"
    (record,) = gateway.records
    assert (record.route, record.model_version) == (pb.PAYLOAD_ROUTE_FALLBACK, 3)
    assert record.status_code == 0
    assert gateway.lost == ["tessera-flights-1-0"]


async def test_fallback_ends_with_the_attempts_and_other_codes(
    make_endpoint: Make, make_request: Make
) -> None:
    policy = TrafficPolicy(fallback_codes=frozenset({14}), fallback_attempts=1)
    gateway = Gateway(changed(make_endpoint(shares=(100, 0, 0)), policy))
    away = RuntimeUnavailable("away")
    failing(gateway, {f"tessera-flights-1-{index}": away for index in (0, 1)})
    await gateway.refused(make_request(), Context())
    (record,) = gateway.records
    assert (record.route, record.model_version) == (pb.PAYLOAD_ROUTE_FALLBACK, 2)
    failing(gateway, {"tessera-flights-1-0": ModelFailed("no")})
    gateway.capture.records.clear()
    await gateway.refused(make_request(), Context())
    (record,) = gateway.records
    assert (record.route, record.model_version) == (pb.PAYLOAD_ROUTE_PRIMARY, 1)


async def test_who_names_a_version_gets_that_one_or_none(
    make_endpoint: Make, make_request: Make
) -> None:
    policy = TrafficPolicy(fallback_codes=FALLBACK_CODES)
    gateway = Gateway(changed(make_endpoint(shares=(50, 50)), policy))
    failing(gateway, {"tessera-flights-1-1": RuntimeUnavailable("away")})
    request = make_request()
    request.model_version = "2"
    await gateway.refused(request, Context())
    assert gateway.records[0].route == pb.PAYLOAD_ROUTE_PRIMARY


async def test_an_entity_that_is_full_refuses_or_falls_back(
    make_endpoint: Make, make_request: Make
) -> None:
    endpoint = changed(make_endpoint(), max_concurrency=1, max_queue=1)
    gateway = Gateway(endpoint)
    release = asyncio.Event()
    answer = gateway.answer

    async def slow(request: bytes) -> bytes:
        await release.wait()
        return await answer(request)

    gateway.answer = slow
    running = [asyncio.create_task(gateway.infer(make_request(), Context())) for _ in range(2)]
    await asyncio.sleep(0)
    context = Context()
    await gateway.refused(make_request(), context)
    assert context.reason == "ENTITY_BUSY"
    assert context.code is not None
    assert context.code.value[0] == 8
    release.set()
    await asyncio.gather(*running)
    assert Counter(record.route for record in gateway.records) == {
        pb.PAYLOAD_ROUTE_REFUSED: 1,
        pb.PAYLOAD_ROUTE_PRIMARY: 2,
    }
    waited = gateway.records[-1]
    assert 0 < waited.queue_duration_us <= waited.duration_us


async def test_refusals_say_that_no_entity_was_asked(gateway: Gateway, make_request: Make) -> None:
    await gateway.refused(make_request(), Context("bob-token"))
    assert gateway.records[0].route == pb.PAYLOAD_ROUTE_REFUSED


@pytest.mark.parametrize("code", [1, 3, 4, 7, 16])
def test_codes_that_another_entity_cannot_help_with_are_refused(code: int) -> None:
    with pytest.raises(InvalidConfig, match=str(code)):
        check_policy(TrafficPolicy(fallback_codes=frozenset({code})))


def test_shares_and_shadows_exclude_each_other(make_endpoint: Make) -> None:
    endpoint = make_endpoint(shares=(100, 0))
    with_shadow = endpoint.with_shares(
        {"delay-1": 100, "delay-2": 0}, endpoint.updated_at, "e2", shadows={"delay-2": 10}
    )
    assert [one.shadow_percent for one in with_shadow.config.entities] == [0, 10]
    for shares, shadows in (
        ({"delay-1": 90, "delay-2": 10}, None),
        ({"delay-1": 100, "delay-2": 0}, {"delay-1": 5}),
        ({"delay-1": 100, "delay-2": 0}, {"other": 5}),
        ({"delay-1": 100, "delay-2": 0}, {"delay-2": 101}),
    ):
        with pytest.raises(InvalidConfig):
            with_shadow.with_shares(shares, endpoint.updated_at, "e3", shadows=shadows)


@pytest.fixture
def gateway(make_endpoint: Make) -> Gateway:
    return Gateway(make_endpoint())
