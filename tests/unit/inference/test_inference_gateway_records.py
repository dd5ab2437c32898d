"""What the gateway keeps and tells of requests: records, spans, mirrors, routes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import grpc
import pytest

from services.inference.adapters.memory import InMemoryCapture
from services.inference.domain.settings import EndpointSettings, WhenSpoolFull
from services.inference.errors import ModelFailed, ModelNotLoaded
from services.inference.gateway import records
from services.inference.gateway.infer import REQUEST_ID_KEY
from tessera_kit.ids import new_id
from tessera_kit.telemetry import names
from tests.helpers import Spans, eventually
from tests.unit.inference.gateway import TRACE, Aborted, Context, Gateway, Make


@pytest.fixture
def gateway(make_endpoint: Make) -> Gateway:
    return Gateway(make_endpoint())


async def test_no_reply_leaves_without_its_record(make_endpoint: Make, make_request: Make) -> None:
    gateway = Gateway(make_endpoint())
    gateway.recorder._capture = InMemoryCapture(room=10)
    context = Context()
    await gateway.refused(make_request(), context)
    assert (context.code, context.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SPOOL_FULL",
    )


async def test_bodies_that_the_spool_cannot_take_leave_a_code(
    make_endpoint: Make, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LARGEST_BODY", 8)
    gateway = Gateway(make_endpoint())
    await gateway.infer(make_request(), Context())
    (record,) = gateway.records
    assert (record.request, record.response) == (b"", b"")
    assert list(record.logging_error_codes) == [
        "MAX_REQUEST_SIZE_EXCEEDED",
        "MAX_RESPONSE_SIZE_EXCEEDED",
    ]


async def test_traffic_is_split_exactly_and_a_version_can_be_named(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(make_endpoint(shares=(90, 10)))
    for _ in range(200):
        await gateway.infer(make_request(), Context())
    versions = [record.model_version for record in gateway.records]
    assert (versions.count(1), versions.count(2)) == (180, 20)
    named = make_request()
    named.model_version = "2"
    reply = await gateway.infer(named, Context())
    assert reply.model_version == "2"
    named.model_version = "3"
    context = Context()
    await gateway.refused(named, context)
    assert context.code is grpc.StatusCode.NOT_FOUND


async def test_a_route_changes_between_two_requests(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(make_endpoint())
    await gateway.infer(make_request(), Context())
    (retired,) = gateway.routes.put(make_endpoint(version=2))
    await asyncio.wait_for(retired.drained(), 1)
    await gateway.infer(make_request(), Context())
    assert [record.config_version for record in gateway.records] == [1, 2]


def counted(gateway: Gateway, outcome: str) -> float | None:
    """How many records came to that."""
    return gateway.metrics.registry.get_sample_value(
        "tessera_spool_records_total", {"tessera_outcome": outcome}
    )


SERVED = "inference/ModelInfer"


@pytest.mark.parametrize("failing", [False, True], ids=["answered", "failed"])
async def test_a_recorded_request_tells_its_steps(
    make_endpoint: Make, make_request: Make, failing: bool
) -> None:
    spans, context = Spans(), Context()
    gateway = Gateway(make_endpoint(), tracer=spans.tracer)
    if failing:

        async def fail(request: bytes) -> bytes:
            raise ModelFailed("the model failed: no")

        gateway.answer = fail
    context.metadata[0] = ("traceparent", f"00-{TRACE}-{'cd' * 8}-01")
    with contextlib.suppress(Aborted):
        await gateway.infer(make_request(), context)

    await eventually(lambda: SERVED in spans.ended())
    ended = spans.ended()
    assert set(ended) == {SERVED, names.SPAN_MODEL_INFER, names.SPAN_SPOOL_APPEND}
    served, model = ended[SERVED], ended[names.SPAN_MODEL_INFER]
    (record,) = gateway.records
    assert served.attributes is not None and model.attributes is not None
    assert served.attributes[names.REQUEST_ID] == record.tessera_request_id
    assert model.attributes[names.MODEL] == "main.flights.delay"
    assert model.status.is_ok is not failing
    for step in (model, ended[names.SPAN_SPOOL_APPEND]):
        assert step.parent is not None
        assert step.parent.span_id == served.context.span_id
        assert step.start_time is not None and step.end_time is not None
        assert step.start_time <= step.end_time
    assert record.span_id == served.context.span_id.to_bytes(8, "big")


async def test_an_unrecorded_request_tells_no_steps(
    make_endpoint: Make, make_request: Make
) -> None:
    spans = Spans()
    await Gateway(make_endpoint(), tracer=spans.tracer).infer(make_request(), Context())
    assert spans.ended() == {}


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_record_is_prepared_only_of_what_is_kept(
    make_endpoint: Make, make_request: Make, fraction: float
) -> None:
    settings = EndpointSettings(sampling_fraction=fraction)
    gateway = Gateway(replace(make_endpoint(), settings=settings))
    exchange = records.Exchange(new_id(), make_request())
    exchange.route = gateway.routes.find("flights")
    gateway.recorder.prepare(exchange)
    assert bool(exchange.head) is bool(fraction)


async def test_a_share_of_the_requests_is_kept_with_its_mirrors(
    make_endpoint: Make, make_request: Make
) -> None:
    endpoint = make_endpoint(shares=(100, 0))
    entities = endpoint.config.entities
    config = replace(
        endpoint.config, entities=(entities[0], replace(entities[1], shadow_percent=100))
    )
    settings = EndpointSettings(sampling_fraction=0.3)
    gateway = Gateway(replace(endpoint, config=config, settings=settings))
    identifiers = []
    for _ in range(200):
        context = Context()
        await gateway.infer(make_request(), context)
        identifiers.append(context.trailing[REQUEST_ID_KEY])
        await gateway.shadows.idle()
    found = [record.tessera_request_id for record in gateway.records]
    kept = [identifier for identifier in found if "." not in identifier]
    mirrors = [identifier[:36] for identifier in found if identifier.endswith(".s0")]
    assert sorted(kept) == sorted(mirrors)
    assert set(kept) < set(identifiers)
    # Six standard deviations of a binomial count.
    assert abs(len(kept) - 60) <= 39
    assert {record.sampling_fraction for record in gateway.records} == {0.3}
    assert counted(gateway, "sampled out") == 2 * (200 - len(kept))
    await eventually(lambda: counted(gateway, "appended") == len(found))


async def test_an_endpoint_may_answer_what_cannot_be_kept(
    make_endpoint: Make, make_request: Make
) -> None:
    settings = EndpointSettings(when_spool_full=WhenSpoolFull.COUNT)
    gateway = Gateway(replace(make_endpoint(), settings=settings))
    gateway.recorder._capture = InMemoryCapture(room=10)
    await gateway.infer(make_request(), Context())
    assert counted(gateway, "lost") == 1
    assert counted(gateway, "appended") == 0


async def test_records_tell_endpoints_of_one_name_apart(
    gateway: Gateway, make_request: Make
) -> None:
    await gateway.infer(make_request(), Context())
    assert gateway.records[0].endpoint_id == "id-flights"


async def test_many_requests_of_a_lost_model_share_a_look_at_the_store(
    gateway: Gateway, make_request: Make
) -> None:
    async def gone(_: bytes) -> bytes:
        raise ModelNotLoaded("the model is not loaded")

    gateway.answer = gone
    await asyncio.gather(*(gateway.refused(make_request(), Context()) for _ in range(50)))
    assert len(gateway.records) == 50
    assert 1 <= gateway.looks <= 2
