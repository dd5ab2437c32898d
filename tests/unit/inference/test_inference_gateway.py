"""The gateway's hot path: every request of an endpoint leaves one record, whatever became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest
from tritonclient.grpc import service_pb2

from services.inference.errors import InvalidInference, ModelFailed
from services.inference.gateway.infer import REQUEST_ID_KEY, InferenceLimits
from tessera.catalog.v1 import securable_pb2
from tests.helpers import eventually
from tests.unit.inference.gateway import TRACE, Context, Gateway, Make


@pytest.fixture
def gateway(make_endpoint: Make) -> Gateway:
    return Gateway(make_endpoint())


async def test_a_request_is_answered_and_recorded(gateway: Gateway, make_request: Make) -> None:
    request, context = make_request(request_id="mine"), Context()
    reply = await gateway.infer(request, context)
    assert (reply.model_name, reply.model_version, reply.id) == ("flights", "1", "mine")
    identifier = context.trailing[REQUEST_ID_KEY]
    assert reply.parameters["tessera_request_id"].string_param == identifier
    (asked,) = gateway.asked
    assert (asked.model_name, asked.model_version) == ("tessera-flights-1-0", "")
    (record,) = gateway.records
    assert record.tessera_request_id == identifier
    assert record.client_request_id == "mine"
    assert (record.endpoint, record.served_entity) == ("flights", "delay-1")
    assert (record.model_name, record.model_version) == ("main.flights.delay", 1)
    assert (record.status_code, record.requester, record.trace_id) == (0, "alice", TRACE)
    assert len(record.span_id) == 8
    assert record.span_id != bytes(8)
    assert record.request == request.SerializeToString()
    assert service_pb2.ModelInferResponse.FromString(record.response) == reply
    assert record.duration_us >= record.execution_duration_us


async def test_the_model_name_is_replaced_wherever_it_stands(
    gateway: Gateway, make_request: Make
) -> None:
    """Field order is the sender's choice."""
    request = make_request()
    request.model_name = ""
    name_last = request.SerializeToString() + b"\x0a\x07flights"
    await gateway.infer(name_last, Context())
    assert gateway.asked[0].model_name == "tessera-flights-1-0"


@pytest.mark.parametrize(
    ("token", "code", "requester"),
    [
        ("", grpc.StatusCode.UNAUTHENTICATED, ""),
        ("x", grpc.StatusCode.UNAUTHENTICATED, ""),
        ("bob-token", grpc.StatusCode.PERMISSION_DENIED, "bob"),
        ("stranger-token", grpc.StatusCode.NOT_FOUND, "stranger"),
    ],
)
async def test_who_may_not_ask_is_recorded_without_a_body(
    gateway: Gateway, make_request: Make, token: str, code: grpc.StatusCode, requester: str
) -> None:
    context = Context(token)
    await gateway.refused(make_request(), context)
    assert context.code is code
    (record,) = gateway.records
    assert (record.status_code, record.requester) == (code.value[0], requester)
    assert record.request == b""
    assert list(record.logging_error_codes) == ["REQUEST_NOT_AUTHORISED"]
    assert gateway.asked == []


async def test_an_unknown_endpoint_is_only_counted(gateway: Gateway, make_request: Make) -> None:
    context = Context()
    await gateway.refused(make_request(name="nowhere"), context)
    assert (context.code, context.reason) == (grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND")
    assert gateway.records == []
    labels = {
        "tessera_endpoint_name": "_unknown",
        "tessera_model_version": "0",
        "rpc_response_status_code": "NOT_FOUND",
    }
    sample = gateway.metrics.registry.get_sample_value
    await eventually(lambda: sample("tessera_inference_requests_total", labels) == 1)


async def test_an_endpoint_that_is_not_ready_has_rows_already(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(make_endpoint())
    gateway.routes.put(replace(make_endpoint("starting"), config=None))
    gateway.authority.grant(
        "alice",
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_ENDPOINT,
        "starting",
    )
    context = Context()
    await gateway.refused(make_request(name="starting"), context)
    assert (context.code, context.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ENDPOINT_NOT_READY",
    )
    assert [record.endpoint for record in gateway.records] == ["starting"]


@pytest.mark.parametrize("remaining", [None, 3600.0])
async def test_no_request_lasts_for_ever(
    make_endpoint: Make, make_request: Make, remaining: float | None
) -> None:
    gateway = Gateway(make_endpoint(), InferenceLimits(longest_seconds=0.01))

    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    gateway.answer = never
    context = Context(remaining=remaining)
    await gateway.refused(make_request(), context)
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_what_does_not_fit_never_reaches_the_runtime(
    gateway: Gateway, make_request: Make
) -> None:
    request, context = make_request(), Context()
    request.inputs[0].shape[1] = 5
    await gateway.refused(request, context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[0] 'x'" in context.details
    assert gateway.asked == []
    (record,) = gateway.records
    assert (record.status_code, record.served_entity) == (3, "")
    assert record.request == request.SerializeToString()


async def test_bytes_that_are_no_request_are_refused(gateway: Gateway) -> None:
    context = Context()
    await gateway.refused(b"\xff\xff\xff", context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert gateway.records == []


async def test_a_runtime_that_is_away_is_unavailable_and_looked_after(
    gateway: Gateway, make_request: Make
) -> None:
    gateway.runtime.up = False
    context = Context()
    await gateway.refused(make_request(), context)
    assert (context.code, context.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "RUNTIME_UNAVAILABLE",
    )
    assert gateway.lost == ["tessera-flights-1-0"]
    (record,) = gateway.records
    assert (record.status_code, record.served_entity) == (14, "delay-1")


async def test_the_deadline_ends_the_wait(gateway: Gateway, make_request: Make) -> None:
    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    gateway.answer = never
    context = Context(remaining=0.01)
    await gateway.refused(make_request(), context)
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert gateway.records[0].status_code == 4


@pytest.mark.parametrize(("remaining", "code"), [(None, 1), (3.0, 1), (0.03, 4), (0.0, 4)])
async def test_a_call_that_ends_early_is_recorded(
    gateway: Gateway, make_request: Make, remaining: float | None, code: int
) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(_: bytes) -> bytes:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    gateway.answer = slow
    context = Context()
    task = asyncio.create_task(gateway.infer(make_request(), context))
    await began.wait()
    context.remaining = remaining
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set(), "the runtime's work must end with its caller"
    assert gateway.records[0].status_code == code
    assert gateway.handler.in_flight == 0


async def test_a_model_that_fails_says_how(gateway: Gateway, make_request: Make) -> None:
    async def fail(_: bytes) -> bytes:
        raise ModelFailed("the model failed: IndexError: index out of range")

    gateway.answer = fail
    context = Context()
    await gateway.refused(make_request(), context)
    assert (context.code, context.reason) == (grpc.StatusCode.INTERNAL, "MODEL_FAILED")
    assert "IndexError" in context.details
    assert gateway.records[0].status_message == context.details


async def test_a_defect_keeps_its_text_to_itself(gateway: Gateway, make_request: Make) -> None:
    async def fail(_: bytes) -> bytes:
        raise RuntimeError("secret path")

    gateway.answer = fail
    context = Context()
    await gateway.refused(make_request(), context)
    assert context.code is grpc.StatusCode.INTERNAL
    assert "secret" not in context.details + gateway.records[0].status_message


async def test_a_refusal_of_the_runtime_is_the_callers(
    gateway: Gateway, make_request: Make
) -> None:
    async def refuse(_: bytes) -> bytes:
        raise InvalidInference("the model runtime refused the request's tensors")

    gateway.answer = refuse
    context = Context()
    await gateway.refused(make_request(), context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_requests_in_flight_are_bounded(make_endpoint: Make, make_request: Make) -> None:
    gateway = Gateway(make_endpoint(), InferenceLimits(max_in_flight=2))
    go = asyncio.Event()

    async def wait(request: bytes) -> bytes:
        await go.wait()
        return await gateway._answer(request)

    gateway.answer = wait
    running = [asyncio.create_task(gateway.infer(make_request(), Context())) for _ in range(2)]
    await asyncio.sleep(0)
    context = Context()
    await gateway.refused(make_request(), context)
    assert (context.code, context.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_INFERENCES",
    )
    go.set()
    await asyncio.gather(*running)
    await gateway.infer(make_request(), Context())
    assert sorted(record.status_code for record in gateway.records) == [0, 0, 0, 8]
