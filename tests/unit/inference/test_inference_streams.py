"""ModelStreamInfer: each request is checked, answered in any number of parts, and one record."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.adapters.memory import InMemoryCapture
from services.inference.domain.endpoint import Endpoint
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.settings import EndpointSettings, WhenSpoolFull
from services.inference.domain.traffic import TrafficPolicy
from services.inference.errors import ModelFailed, RuntimeUnavailable
from services.inference.gateway.infer import REQUEST_ID_KEY, InferenceLimits
from services.inference.gateway.streams import StreamLimits
from tessera.events.v1 import inference_events_pb2 as pb
from tests.helpers import eventually
from tests.unit.inference.gateway import Aborted, Context, Gateway

Make = Callable[..., Any]


class StreamContext(Context):
    """A call whose caller reads, unless told otherwise."""

    def __init__(self, who: str = "alice-token", remaining: float | None = None) -> None:
        super().__init__(who, remaining)
        self.written: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, message: bytes) -> None:
        await self.reads.wait()
        self.written.append(service_pb2.ModelStreamInferResponse.FromString(message))


async def sent(requests: Iterable[Any]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request if isinstance(request, bytes) else request.SerializeToString()


async def run(gateway: Gateway, requests: Iterable[Any], context: StreamContext) -> list[Any]:
    await gateway.streams.stream(sent(requests), context)  # type: ignore[arg-type]
    return context.written


def streaming(endpoint: Endpoint) -> Endpoint:
    """The endpoint with models that give any number of responses."""
    assert endpoint.config is not None
    entities = tuple(
        replace(one, signature=replace(one.signature, streams=True))
        for one in endpoint.config.entities
    )
    return replace(endpoint, config=replace(endpoint.config, entities=entities))


def chunk(value: float, final: bool = False) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="tessera-flights-1-0", id="r")
    message.parameters["triton_final_response"].bool_param = final
    message.outputs.add(name="probability", datatype="FP32", shape=[1, 1])
    message.raw_output_contents.append(np.float32(value).tobytes())
    return bytes(message.SerializeToString())


def counting(number: int, fail: Exception | None = None) -> Any:
    async def streamed(_: bytes) -> AsyncGenerator[bytes]:
        for value in range(number):
            yield chunk(value)
        if fail is not None:
            raise fail

    return streamed


def values(response: bytes) -> list[float]:
    message = service_pb2.ModelInferResponse.FromString(response)
    return [float(x) for raw in message.raw_output_contents for x in np.frombuffer(raw, "<f4")]


@pytest.fixture
def gateway(make_endpoint: Make) -> Gateway:
    return Gateway(streaming(make_endpoint()))


async def test_a_model_with_one_response_answers_each_request(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway, context = Gateway(make_endpoint()), StreamContext()
    written = await run(gateway, [make_request(request_id=f"r{i}") for i in range(9)], context)
    assert sorted(one.infer_response.id for one in written) == [f"r{i}" for i in range(9)]
    assert {one.infer_response.model_name for one in written} == {"flights"}
    by_id = {record.tessera_request_id: record for record in gateway.records}
    assert len(by_id) == 9
    for one in written:
        reply = one.infer_response
        record = by_id[reply.parameters["tessera_request_id"].string_param]
        assert record.client_request_id == reply.id
        assert service_pb2.ModelInferResponse.FromString(record.response) == reply
        assert list(record.chunk_times_us) == []


async def test_many_responses_are_one_record(gateway: Gateway, make_request: Make) -> None:
    gateway.runtime.streamed = counting(4)
    written = await run(gateway, [make_request()], StreamContext())
    found = [values(one.infer_response.SerializeToString()) for one in written]
    assert found == [[0.0], [1.0], [2.0], [3.0]]
    (record,) = gateway.records
    assert values(record.response) == [0.0, 1.0, 2.0, 3.0]
    reply = service_pb2.ModelInferResponse.FromString(record.response)
    assert (reply.model_name, list(reply.outputs[0].shape)) == ("flights", [4, 1])
    times = list(record.chunk_times_us)
    assert len(times) == 4
    assert times == sorted(times)
    assert times[-1] <= record.duration_us
    assert (record.status_code, record.model_version, record.requester) == (0, 1, "alice")


async def test_no_response_at_all_is_an_answer(gateway: Gateway, make_request: Make) -> None:
    gateway.runtime.streamed = counting(0)
    assert await run(gateway, [make_request()], StreamContext()) == []
    (record,) = gateway.records
    assert (record.status_code, record.response) == (0, b"")


async def test_failures_are_told_in_the_stream_which_goes_on(
    gateway: Gateway, make_request: Make
) -> None:
    gateway.runtime.streamed = counting(1)
    bad, unknown = make_request(request_id="bad"), make_request(name="nowhere")
    bad.inputs[0].shape[1] = 3
    written = await run(gateway, [b"\xff", bad, unknown, make_request()], StreamContext())
    codes = {
        one.infer_response.id: one.infer_response.parameters["tessera_status_code"].int64_param
        for one in written
        if one.error_message
    }
    assert codes["bad"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [bool(one.error_message) for one in written].count(False) == 1
    assert len(written) == 4
    assert sorted(record.status_code for record in gateway.records) == [0, 3]


async def test_a_failure_amid_the_responses_keeps_what_came(
    gateway: Gateway, make_request: Make
) -> None:
    gateway.runtime.streamed = counting(2, ModelFailed("the model failed: ValueError: no more"))
    written = await run(gateway, [make_request()], StreamContext())
    assert written[-1].error_message == "the model failed: ValueError: no more"
    (record,) = gateway.records
    assert record.status_code == grpc.StatusCode.INTERNAL.value[0]
    assert values(record.response) == [0.0, 1.0]
    assert len(record.chunk_times_us) == 2


async def test_without_a_token_the_call_ends(gateway: Gateway, make_request: Make) -> None:
    context = StreamContext("nobody")
    with pytest.raises(Aborted):
        await run(gateway, [make_request(), make_request()], context)
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert {record.status_code for record in gateway.records} <= {1, 16}
    assert context.trailing[REQUEST_ID_KEY] in {
        record.tessera_request_id for record in gateway.records
    }
    assert context.written == []


async def test_without_a_grant_the_request_is_refused(gateway: Gateway, make_request: Make) -> None:
    (told,) = await run(gateway, [make_request()], StreamContext("bob-token"))
    assert told.infer_response.parameters["tessera_status_code"].int64_param == 7
    (record,) = gateway.records
    assert (record.status_code, record.request) == (7, b"")


async def test_who_asks_for_it_gets_a_failure_as_the_calls_status(
    gateway: Gateway, make_request: Make
) -> None:
    context = StreamContext()
    context.metadata.append(("triton_grpc_error", "true"))
    with pytest.raises(Aborted):
        await run(gateway, [make_request(name="nowhere")], context)
    assert context.code is grpc.StatusCode.NOT_FOUND
    assert context.written == []


async def test_other_entities_are_asked_before_the_first_response_only(
    make_endpoint: Make, make_request: Make
) -> None:
    endpoint = streaming(make_endpoint(shares=(100, 0)))
    assert endpoint.config is not None
    policy = TrafficPolicy(fallback_codes=frozenset({14}), fallback_attempts=1)
    gateway = Gateway(replace(endpoint, config=replace(endpoint.config, traffic=policy)))
    after = 0

    async def streamed(request: bytes) -> AsyncGenerator[bytes]:
        name = service_pb2.ModelInferRequest.FromString(request).model_name
        if name.endswith("-0"):
            for value in range(after):
                yield chunk(value)
            raise RuntimeUnavailable("gone", retry_after=1)
        yield chunk(9)

    gateway.runtime.streamed = streamed
    (told,) = await run(gateway, [make_request()], StreamContext())
    assert (told.error_message, told.infer_response.model_version) == ("", "2")
    (record,) = gateway.records
    assert list(record.failed_served_entities) == ["delay-1"]
    assert (record.served_entity, values(record.response)) == ("delay-2", [9.0])
    after = 1
    first, failure = await run(gateway, [make_request()], StreamContext())
    assert first.infer_response.model_version == "1"
    assert failure.infer_response.parameters["tessera_status_code"].int64_param == 14


async def test_cancelling_ends_the_work_and_keeps_what_came(
    gateway: Gateway, make_request: Make
) -> None:
    ended = asyncio.Event()

    async def streamed(_: bytes) -> AsyncGenerator[bytes]:
        try:
            yield chunk(1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    gateway.runtime.streamed = streamed
    context = StreamContext()
    task = asyncio.create_task(run(gateway, [make_request()], context))
    await eventually(lambda: len(context.written) == 1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert ended.is_set()
    (record,) = gateway.records
    assert (record.status_code, values(record.response)) == (1, [1.0])
    assert (gateway.handler.in_flight, gateway.streams.held) == (0, 0)


async def test_an_answer_is_noted_before_its_model_is_asked(
    gateway: Gateway, make_request: Make
) -> None:
    """A kill amid the stream must leave a record of it, and one amid its end no second one."""
    model = counting(3, ModelFailed("no more"))
    asked, answer = asyncio.Event(), asyncio.Event()

    async def streamed(request: bytes) -> AsyncGenerator[bytes]:
        asked.set()
        await answer.wait()
        async for response in model(request):
            yield response

    gateway.runtime.streamed = streamed
    context = StreamContext()
    context.reads.clear()
    task = asyncio.create_task(run(gateway, [make_request()], context))
    await asked.wait()
    ((name, noted),) = gateway.capture.begun.items()
    record = pb.PayloadRecord.FromString(noted)
    assert (record.tessera_request_id, record.status_code, record.response) == (name, 14, b"")
    assert list(record.logging_error_codes) == ["STREAM_CUT_SHORT"]
    assert (record.served_entity, record.route) == ("delay-1", pb.PAYLOAD_ROUTE_PRIMARY)
    assert (record.requester, len(record.chunk_times_us)) == ("alice", 0)
    answer.set()
    await eventually(lambda: gateway.capture.begun[name] != noted)
    record = pb.PayloadRecord.FromString(gateway.capture.begun[name])
    assert 0 <= record.execution_duration_us <= record.duration_us
    assert (len(record.chunk_times_us), record.served_entity) == (1, "delay-1")
    assert (context.written, gateway.records) == ([], [])
    context.reads.set()
    await task
    (record,) = gateway.records
    assert (record.tessera_request_id, record.status_code) == (name, 13)
    assert gateway.capture.begun == {}


@pytest.mark.parametrize("policy", [WhenSpoolFull.REFUSE, WhenSpoolFull.COUNT])
async def test_without_room_for_the_note_the_policy_decides(
    make_endpoint: Make, make_request: Make, policy: WhenSpoolFull
) -> None:
    settings = EndpointSettings(when_spool_full=policy)
    endpoint = replace(streaming(make_endpoint()), settings=settings)
    gateway = Gateway(endpoint, capture=InMemoryCapture(room=10))
    gateway.runtime.streamed = counting(2)
    written = await run(gateway, [make_request()], StreamContext())
    if policy is WhenSpoolFull.COUNT:
        assert [bool(one.error_message) for one in written] == [False, False]
    else:
        (failure,) = written
        assert failure.infer_response.parameters["tessera_status_code"].int64_param == 8


async def test_an_answer_that_is_not_kept_is_not_noted(
    make_endpoint: Make, make_request: Make
) -> None:
    settings = EndpointSettings(sampling_fraction=0.0)
    gateway = Gateway(replace(streaming(make_endpoint()), settings=settings))
    gateway.runtime.streamed = counting(2)
    context = StreamContext()
    context.reads.clear()
    request = make_request().SerializeToString()
    task = asyncio.create_task(run(gateway, [request], context))
    await eventually(lambda: gateway.streams.held > len(request))
    assert gateway.capture.begun == {}
    context.reads.set()
    await task
    assert gateway.records == []


async def test_time_that_is_over_is_told(gateway: Gateway, make_request: Make) -> None:
    async def streamed(_: bytes) -> AsyncGenerator[bytes]:
        yield chunk(1)
        await asyncio.Event().wait()

    gateway.runtime.streamed = streamed
    written = await run(gateway, [make_request()], StreamContext(remaining=0.01))
    assert written[-1].infer_response.parameters["tessera_status_code"].int64_param == 4
    (record,) = gateway.records
    assert (record.status_code, len(record.chunk_times_us)) == (4, 1)


async def test_a_caller_that_does_not_read_holds_up_the_model_and_new_requests(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(streaming(make_endpoint()), stream_limits=StreamLimits(at_once=3))
    made = taken = 0

    async def streamed(_: bytes) -> AsyncGenerator[bytes]:
        nonlocal made
        for value in range(1000):
            made += 1
            yield chunk(value)

    async def requests() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(50):
            taken += 1
            yield make_request().SerializeToString()

    gateway.runtime.streamed = streamed
    context = StreamContext()
    context.reads.clear()
    task = asyncio.create_task(gateway.streams.stream(requests(), context))  # type: ignore[arg-type]
    for _ in range(500):
        await asyncio.sleep(0)
    assert (made, taken) == (3, 4)
    assert gateway.handler.in_flight == 3
    task.cancel()
    await asyncio.wait([task])
    assert gateway.streams.held == 0


async def test_bytes_of_streams_are_bounded(make_endpoint: Make, make_request: Make) -> None:
    size = len(make_request().SerializeToString())
    limits = StreamLimits(held_bytes=size + 200)
    gateway = Gateway(streaming(make_endpoint()), stream_limits=limits)
    gateway.runtime.streamed = counting(50)
    written = await run(gateway, [make_request()], StreamContext())
    assert len(written) == 50
    (record,) = gateway.records
    assert (record.status_code, record.response) == (0, b"")
    assert list(record.logging_error_codes) == ["MAX_RESPONSE_SIZE_EXCEEDED"]
    assert len(record.chunk_times_us) == 50
    (told,) = await run(gateway, [make_request(rows=100)], StreamContext())
    assert told.infer_response.parameters["tessera_status_code"].int64_param == 8
    assert gateway.streams.held == 0


async def test_requests_beyond_the_gateways_bound_are_refused(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(streaming(make_endpoint()), InferenceLimits(max_in_flight=0))
    (told,) = await run(gateway, [make_request()], StreamContext())
    assert told.infer_response.parameters["tessera_status_code"].int64_param == 8


async def test_a_body_that_breaks_off_fails_the_call_as_itself(
    gateway: Gateway, make_request: Make
) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield make_request().SerializeToString()
        raise ValueError("broken off")

    gateway.runtime.streamed = counting(1)
    with pytest.raises(ValueError, match="broken off"):
        await gateway.streams.stream(requests(), StreamContext())  # type: ignore[arg-type]


async def test_a_unary_caller_gets_the_responses_as_one(
    gateway: Gateway, make_request: Make
) -> None:
    gateway.runtime.streamed = counting(3)
    reply = await gateway.infer(make_request(), Context())
    assert values(reply.SerializeToString()) == [0.0, 1.0, 2.0]
    (record,) = gateway.records
    assert values(record.response) == [0.0, 1.0, 2.0]


async def test_requests_of_a_sequence_wait_for_each_other(
    make_endpoint: Make, make_request: Make
) -> None:
    endpoint = streaming(make_endpoint())
    assert endpoint.config is not None
    (entity,) = endpoint.config.entities
    keeping = replace(entity, runtime=RuntimeOptions(sequences=SequenceOptions()))
    gateway = Gateway(replace(endpoint, config=replace(endpoint.config, entities=(keeping,))))
    running: list[str] = []
    go = asyncio.Event()

    async def streamed(request: bytes) -> AsyncGenerator[bytes]:
        running.append(service_pb2.ModelInferRequest.FromString(request).id)
        await go.wait()
        yield chunk(1)

    def of(sequence: str, request_id: str) -> Any:
        request = make_request(request_id=request_id)
        request.parameters["sequence_id"].string_param = sequence
        return request

    gateway.runtime.streamed = streamed
    requests = [of("a", "a1"), of("a", "a2"), of("b", "b1"), of("a", "a3")]
    task = asyncio.create_task(run(gateway, requests, StreamContext()))
    await eventually(lambda: len(running) == 2)
    assert sorted(running) == ["a1", "b1"]
    go.set()
    assert len(await task) == 4
    assert [one for one in running if one.startswith("a")] == ["a1", "a2", "a3"]
