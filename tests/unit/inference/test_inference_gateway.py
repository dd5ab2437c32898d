"""The gateway's hot path: every request of an endpoint leaves one record, whatever became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.trace import Tracer
from tritonclient.grpc import service_pb2

from services.inference.adapters.memory import (
    InMemoryBudgets,
    InMemoryCapture,
    InMemoryRuntime,
)
from services.inference.domain.endpoint import Endpoint
from services.inference.domain.settings import EndpointSettings, WhenSpoolFull
from services.inference.errors import InvalidInference, ModelFailed, ModelNotLoaded
from services.inference.gateway import records
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.infer import REQUEST_ID_KEY, InferenceHandler, InferenceLimits
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.routing import RouteTable
from services.inference.gateway.shadows import Shadows
from services.inference.gateway.streams import StreamHandler, StreamLimits
from services.inference.ports import Capture, Runtime
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.telemetry import names
from tessera_kit.telemetry.calls import ServerCalls
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import Spans, eventually

Make = Callable[..., Any]
TRACE = "ab" * 16


class Aborted(Exception):
    """What a context raises when a call is aborted."""


class Context:
    """The part of a gRPC context that the handler uses."""

    def __init__(self, who: str = "alice-token", remaining: float | None = None) -> None:
        self.metadata = [("traceparent", f"00-{TRACE}-{'cd' * 8}-00")]
        if who:
            self.metadata.append(("authorization", f"Bearer {who}"))
        self.remaining = remaining
        self.trailing: dict[str, Any] = {}
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def invocation_metadata(self) -> Any:
        return tuple(self.metadata)

    def time_remaining(self) -> float | None:
        return self.remaining

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = dict(metadata)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = code, details
        raise Aborted

    @property
    def reason(self) -> str:
        status = status_pb2.Status.FromString(self.trailing["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return info.reason


class Gateway:
    """A handler with twins around it."""

    def __init__(
        self,
        endpoint: Endpoint,
        limits: InferenceLimits | None = None,
        tracer: Tracer | None = None,
        runtime: Runtime | None = None,
        stream_limits: StreamLimits | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.capture = InMemoryCapture()
        self.asked: list[Any] = []
        self.answer: Callable[[bytes], Awaitable[bytes]] = self._answer
        self.runtime = InMemoryRuntime(lambda request: self.answer(request))
        self.authority = InMemoryAuthority()
        for name in ("alice", "bob", "stranger"):
            self.authority.add_principal(Principal(name), f"{name}-token")
        for name, privilege in (
            ("alice", securable_pb2.PRIVILEGE_EXECUTE),
            ("bob", securable_pb2.PRIVILEGE_BROWSE),
        ):
            self.authority.grant(
                name, [privilege], securable_pb2.SECURABLE_TYPE_ENDPOINT, endpoint.name
            )
        self.routes = RouteTable()
        self.routes.put(endpoint)
        self.lost: list[str] = []
        self.looks = 0
        self.metrics = Metrics()
        counts = GatewayMetrics(self.metrics)
        self.recorder = Recorder(capture or self.capture, self.routes, counts)
        self.hold = RuntimeHold()
        asked = runtime or self.runtime
        self.shadows = Shadows(asked, self.recorder, counts)
        dispatcher = Dispatcher(
            self.routes, asked, self.shadows, self.hold, counts, self._on_lost, self._follow
        )
        self.handler = InferenceHandler(
            self.routes,
            authority=self.authority,
            limiter=RateLimiter(InMemoryBudgets(), SystemClock()),
            dispatcher=dispatcher,
            recorder=self.recorder,
            calls=ServerCalls(self.metrics, tracer, 0.0).method("inference/ModelInfer"),
            metrics=counts,
            limits=limits or InferenceLimits(),
        )
        self.streams = StreamHandler(
            self.handler,
            dispatcher,
            self.recorder,
            limits or InferenceLimits(),
            stream_limits or StreamLimits(),
        )

    async def _follow(self) -> None:
        """No other process changes anything."""
        self.looks += 1
        await asyncio.sleep(0)

    def _on_lost(self, runtime_name: str) -> None:
        self.lost.append(runtime_name)

    async def _answer(self, request: bytes) -> bytes:
        message = service_pb2.ModelInferRequest.FromString(request)
        self.asked.append(message)
        response = service_pb2.ModelInferResponse(
            model_name=message.model_name, model_version="1", id=message.id
        )
        response.outputs.add(name="probability", datatype="FP32", shape=[1, 1])
        response.raw_output_contents.append(b"\0\0\0\0")
        return response.SerializeToString()

    async def infer(self, request: Any, context: Context) -> Any:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        reply = await self.handler.infer(data, context)  # type: ignore[arg-type]
        return service_pb2.ModelInferResponse.FromString(reply)

    async def refused(self, request: Any, context: Context) -> None:
        with pytest.raises(Aborted):
            await self.infer(request, context)

    @property
    def records(self) -> list[pb.PayloadRecord]:
        return [pb.PayloadRecord.FromString(record) for record in self.capture.records]


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
    counted = gateway.metrics.registry.get_sample_value(
        "tessera_spool_records_total", {"tessera_outcome": "sampled out"}
    )
    assert counted == 2 * (200 - len(kept))


async def test_an_endpoint_may_answer_what_cannot_be_kept(
    make_endpoint: Make, make_request: Make
) -> None:
    settings = EndpointSettings(when_spool_full=WhenSpoolFull.COUNT)
    gateway = Gateway(replace(make_endpoint(), settings=settings))
    gateway.recorder._capture = InMemoryCapture(room=10)
    await gateway.infer(make_request(), Context())
    counted = gateway.metrics.registry.get_sample_value(
        "tessera_spool_records_total", {"tessera_outcome": "lost"}
    )
    assert counted == 1


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
