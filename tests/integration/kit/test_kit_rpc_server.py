"""The server builder, over real sockets: all four kinds of call through the whole pipeline."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tessera_kit.config import RpcConfig, Secret
from tessera_kit.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.deadline import time_remaining
from tessera_kit.rpc.identity import Principal, current_principal
from tessera_kit.rpc.server import RpcServer, build_server
from tessera_kit.rpc.status import INTERNAL_MESSAGE, error_from_rpc
from tessera_kit.telemetry.logs import JsonFormatter
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.propagation import current_trace_id
from tessera_kit.telemetry.sampling import ParentOrRatio
from tessera_kit.telemetry.setup import Telemetry
from tests.helpers import eventually
from tests.kit_echo import KINDS, SERVICE, Stub, binding, message

Echo = message("Echo")
ALICE, TOKEN = Principal("alice", groups=frozenset({"team"})), "tsr_alice_secret"


class EchoServicer:
    """Does what a request's `command` says, in each kind of call."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.closed = 0
        self.release = asyncio.Event()

    async def act(self, request: Any, context: Any) -> Any:
        match request.command:
            case "not found":
                raise NotFound("no such thing", metadata={"name": request.text})
            case "defect":
                raise RuntimeError("the database password is swordfish")
            case "wait":
                self.started.set()
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "nothing":
                return None
            case "stray cancellation":
                task = asyncio.create_task(asyncio.Event().wait())
                task.cancel()
                await task
            case "who":
                return Echo(text=current_principal().name)
            case "trace":
                return Echo(text=current_trace_id() or "")
            case "left":
                return Echo(text=str(time_remaining()))
            case "trailing then fail":
                context.set_trailing_metadata((("tessera-request-id", "42"),))
                raise Aborted("etag mismatch")
        return Echo(text=request.text, number=request.number)

    async def Unary(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.act(request, context)

    async def ServerStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            yield await self.act(request, context)
            yield Echo(text="more")
            if request.command == "endless":
                while True:
                    yield Echo(text="x" * 100)
        finally:
            self.closed += 1

    async def ClientStream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        last = None
        async for request in requests:
            last = await self.act(request, context)
        return last

    async def Bidirectional(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in requests:
            yield await self.act(request, context)


class Door:
    """A running server and a client of it."""

    def __init__(self, server: RpcServer, servicer: EchoServicer, stub: Stub) -> None:
        self.server, self.servicer, self.stub = server, servicer, stub
        self.metrics, self.spans = Metrics(), InMemorySpanExporter()


@asynccontextmanager
async def door(ratio: float = 0.0, **settings: Any) -> AsyncIterator[Door]:
    authority = InMemoryAuthority()
    authority.add_principal(ALICE, TOKEN)
    servicer, metrics, spans = EchoServicer(), Metrics(), InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentOrRatio(0.0), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    server = build_server(
        RpcConfig(listen="127.0.0.1:0", **{"drain_seconds": 5.0, **settings}),
        [binding(servicer)],
        authenticator=authority,
        telemetry=Telemetry(
            metrics=metrics, tracer=provider.get_tracer("test"), sample_ratio=ratio
        ),
    )
    await server.start()
    try:
        async with open_channel(server.address, token=Secret(TOKEN), retry=False) as channel:
            opened = Door(server, servicer, Stub(channel))
            opened.metrics, opened.spans = metrics, spans
            yield opened
    finally:
        await server.stop()
        provider.shutdown()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_knows_its_caller(kind: str) -> None:
    async with door() as opened:
        responses = await opened.stub.call(kind, [Echo(text="a", command="who")])
        assert responses[0].text == "alice"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_becomes_its_status_with_details(kind: str) -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call(kind, [Echo(text="x", command="not found")])
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        error = error_from_rpc(caught.value)
        assert isinstance(error, NotFound)
        assert error.message == "no such thing"
        assert error.metadata == {"name": "x", "reason": "NOT_FOUND"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_defect_tells_nothing_and_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with door() as opened:
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(grpc.aio.AioRpcError) as caught,
        ):
            await opened.stub.call(kind, [Echo(text="x", command="defect")])
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == INTERNAL_MESSAGE
    assert "swordfish" not in str(caught.value.trailing_metadata())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "swordfish" in str(record.exc_info)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_response_of_the_wrong_type_is_a_defect(kind: str) -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call(kind, [Echo(text="x", command="nothing")], timeout=5)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == INTERNAL_MESSAGE


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f", b"\x00"])
@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message_are_the_caller_s_fault(kind: str, garbage: bytes) -> None:
    async with door() as opened, grpc.aio.insecure_channel(opened.server.address) as channel:
        stub = Stub(channel, raw=True)
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.call(kind, [garbage], metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_from_rpc(caught.value).metadata["reason"] == "MALFORMED_REQUEST"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stray_cancellation_is_a_defect_and_not_a_hang(kind: str) -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = Echo(text="x", command="stray cancellation")
            await opened.stub.call(kind, [request], timeout=5)
        assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_is_validated_before_it_is_served(kind: str) -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call(kind, [Echo(command="not found")])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        error = error_from_rpc(caught.value)
        assert isinstance(error, InvalidArgument)
        assert error.violations == (FieldViolation("text", "must be set"),)


@pytest.mark.parametrize("kind", ["ClientStream", "Bidirectional"])
async def test_every_request_of_a_stream_is_validated(kind: str) -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call(kind, [Echo(text="a"), Echo(text="b"), Echo(text="c" * 101)])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "MISSING_CREDENTIALS"),
        ((("authorization", "Bearer nobody"),), "INVALID_CREDENTIALS"),
        ((("authorization", "Basic YTpi"),), "INVALID_CREDENTIALS"),
        ((("authorization", "Bearer "),), "INVALID_CREDENTIALS"),
        ((("authorization", "Bearer " + "x" * 5000),), "INVALID_CREDENTIALS"),
    ],
)
async def test_callers_without_a_good_token_are_refused(
    kind: str, metadata: tuple[tuple[str, str], ...], reason: str
) -> None:
    async with door() as opened, grpc.aio.insecure_channel(opened.server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(channel).call(kind, [Echo(command="not found")], metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error_from_rpc(caught.value).metadata["reason"] == reason


@pytest.mark.parametrize("kind", ["ClientStream", "Bidirectional"])
async def test_a_stream_that_is_refused_while_it_is_sent_hears_why(kind: str) -> None:
    """`grpc.aio` says INTERNAL where a message of its caller meets a call that has ended."""
    async with door() as opened, grpc.aio.insecure_channel(opened.server.address) as channel:
        stub = Stub(channel)
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.call(kind, [Echo(text="a")] * 10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", ["ClientStream", "Bidirectional"])
async def test_a_refused_stream_that_does_not_end_is_not_waited_for(kind: str) -> None:
    async with door() as opened, grpc.aio.insecure_channel(opened.server.address) as channel:
        path = f"/{SERVICE}/{kind}"
        call = (
            channel.stream_unary(path) if kind == "ClientStream" else channel.stream_stream(path)
        )()
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.UNAUTHENTICATED


async def test_principals_do_not_leak_between_calls() -> None:
    authority = InMemoryAuthority()
    names = [f"user{number}" for number in range(20)]
    for name in names:
        authority.add_principal(Principal(name), f"token-{name}")
    server = build_server(
        RpcConfig(listen="127.0.0.1:0"), [binding(EchoServicer())], authenticator=authority
    )
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = Stub(channel)

        async def ask(name: str) -> str:
            metadata = (("authorization", f"Bearer token-{name}"),)
            request = Echo(text="a", command="who")
            (response,) = await stub.call("Unary", [request], metadata=metadata)
            return response.text

        assert await asyncio.gather(*map(ask, names * 5)) == names * 5
    await server.stop()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_cancels_ends_the_work(kind: str) -> None:
    async with door() as opened:
        call = asyncio.create_task(opened.stub.call(kind, [Echo(text="a", command="wait")]))
        await asyncio.wait_for(opened.servicer.started.wait(), 10)
        call.cancel()
        await asyncio.wait_for(opened.servicer.cancelled.wait(), 10)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_s_deadline_ends_the_work(kind: str) -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call(kind, [Echo(text="a", command="wait")], timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(opened.servicer.cancelled.wait(), 10)


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_client_s_deadline_the_server_s_holds(kind: str) -> None:
    limits = {"unary_deadline_seconds": 0.2, "stream_deadline_seconds": 0.2}
    async with door(**limits) as opened, grpc.aio.insecure_channel(opened.server.address) as bare:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(bare).call(
                kind,
                [Echo(text="a", command="wait")],
                metadata=(("authorization", f"Bearer {TOKEN}"),),
            )
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "longer than it may" in (caught.value.details() or "")
        assert opened.servicer.cancelled.is_set()


async def test_a_call_knows_how_long_it_has() -> None:
    async with door() as opened:
        (response,) = await opened.stub.call("Unary", [Echo(text="a", command="left")], timeout=5)
        assert 0 < float(response.text) <= 5.1
        (response,) = await opened.stub.call("Unary", [Echo(text="a", command="left")])
        assert 5 < float(response.text) <= 31  # grpc rounds what it sends up


async def test_calls_over_the_limit_are_refused_and_health_still_answers() -> None:
    async with door(max_concurrent_rpcs=2) as opened:
        waiting = [
            asyncio.create_task(opened.stub.call("Unary", [Echo(text="a", command="wait")]))
            for _ in range(2)
        ]
        gauge = f'server_address="{opened.server.address}"'

        async def refused() -> grpc.StatusCode:
            try:
                await opened.stub.call("Unary", [Echo(text="b")])
            except grpc.aio.AioRpcError as error:
                assert error_from_rpc(error).retry_after is not None
                return error.code()
            raise AssertionError("not refused yet")

        assert await eventually(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert active_calls(opened.metrics, gauge) == 2
        async with grpc.aio.insecure_channel(opened.server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        opened.servicer.release.set()
        await asyncio.gather(*waiting)
        assert active_calls(opened.metrics, gauge) == 0
        assert (await opened.stub.call("Unary", [Echo(text="b")]))[0].text == "b"


def active_calls(metrics: Metrics, label: str) -> float | None:
    address = label.split('"')[1]
    name = "tessera_rpc_server_active_calls"
    return metrics.registry.get_sample_value(name, {"server_address": address})


async def test_a_message_over_the_limit_is_refused() -> None:
    async with door(max_message_bytes=10_000) as opened:
        big = Echo(text="a", command="x" * 20_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call("Unary", [big])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_trailing_metadata_survives_an_error() -> None:
    async with door() as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.stub.call("Unary", [Echo(text="a", command="trailing then fail")])
        assert ("tessera-request-id", "42") in tuple(caught.value.trailing_metadata())
        assert isinstance(error_from_rpc(caught.value), Aborted)


async def test_an_abandoned_stream_is_closed() -> None:
    async with door() as opened:
        call = opened.stub.server_stream(Echo(text="a", command="endless"))
        await call.read()
        call.cancel()
        await eventually(lambda: opened.servicer.closed == 1)


async def test_health_and_reflection_are_open() -> None:
    async with door() as opened, grpc.aio.insecure_channel(opened.server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request])):
            listed = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= listed


async def test_a_stop_tells_health_lets_calls_end_and_refuses_new_ones() -> None:
    async with door() as opened:
        stub = opened.stub
        running = asyncio.create_task(stub.call("Unary", [Echo(text="a", command="wait")]))
        await opened.servicer.started.wait()
        async with grpc.aio.insecure_channel(opened.server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(opened.server.stop())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

            async def refused() -> bool:
                try:
                    await stub.call("Unary", [Echo(text="b")], timeout=1)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return True
                return False

            await eventually(refused)
            assert not stopping.done()
            opened.servicer.release.set()
            assert (await running)[0].text == "a"
            # Well before the drain time: neither the watch nor the ended call holds it up.
            await asyncio.wait_for(stopping, 3)


async def test_a_stop_cancels_what_does_not_end() -> None:
    async with door(drain_seconds=0.2) as opened:
        running = asyncio.create_task(
            opened.stub.call("Unary", [Echo(text="a", command="wait")], timeout=20)
        )
        await opened.servicer.started.wait()
        await asyncio.wait_for(opened.server.stop(), 10)
        assert opened.servicer.cancelled.is_set()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await running


async def test_methods_that_are_not_offered() -> None:
    async with door() as opened, grpc.aio.insecure_channel(opened.server.address) as channel:
        call = channel.unary_unary("/tessera.testing.v1.EchoService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_synchronous_behaviours_are_refused_when_the_server_is_built() -> None:
    class Synchronous:
        def Unary(self, request: Any, context: Any) -> Any:  # noqa: N802
            return request

    with pytest.raises(TypeError, match="async"):
        build_server(
            RpcConfig(listen="127.0.0.1:0"),
            [binding(Synchronous())],
            authenticator=InMemoryAuthority(),
        )


async def test_a_port_in_use_is_refused() -> None:
    async with door() as opened:
        with pytest.raises(RuntimeError):
            build_server(
                RpcConfig(listen=opened.server.address), [], authenticator=InMemoryAuthority()
            )


@pytest.mark.parametrize("kind", KINDS)
async def test_durations_are_counted_by_method_and_status(kind: str) -> None:
    async with door() as opened:
        await opened.stub.call(kind, [Echo(text="a")])
        with pytest.raises(grpc.aio.AioRpcError):
            await opened.stub.call(kind, [Echo(text="a", command="not found")])
        for code in ("OK", "NOT_FOUND"):
            count = opened.metrics.registry.get_sample_value(
                "rpc_server_call_duration_seconds_count",
                {"rpc_method": f"{SERVICE}/{kind}", "rpc_response_status_code": code},
            )
            assert count == 1


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_recorded_trace_goes_on(kind: str) -> None:
    async with door() as opened:
        sent = (("traceparent", PARENT + "01"),)
        responses = await opened.stub.call(kind, [Echo(text="a", command="trace")], metadata=sent)
        assert responses[0].text == PARENT[3:35]
        (span,) = opened.spans.get_finished_spans()
        assert span.name == f"{SERVICE}/{kind}"
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == PARENT[36:52]
        assert span.attributes["rpc.response.status_code"] == "OK"


async def test_an_unrecorded_trace_keeps_its_id_and_leaves_no_span() -> None:
    async with door(ratio=1.0) as opened:
        sent = (("traceparent", PARENT + "00"),)
        request = Echo(text="a", command="trace")
        (response,) = await opened.stub.call("Unary", [request], metadata=sent)
        assert response.text == PARENT[3:35]
        assert not opened.spans.get_finished_spans()


@pytest.mark.parametrize(("ratio", "spans"), [(0.0, 0), (1.0, 5)])
async def test_the_share_of_traces_begun_here(ratio: float, spans: int) -> None:
    async with door(ratio) as opened:
        traces = set()
        for _ in range(5):
            (response,) = await opened.stub.call("Unary", [Echo(text="a", command="trace")])
            traces.add(response.text)
        assert len(traces) == 5
        assert all(len(trace) == 32 for trace in traces)
        assert len(opened.spans.get_finished_spans()) == spans


async def test_a_failed_call_s_span_says_so() -> None:
    async with door(1.0) as opened:
        with pytest.raises(grpc.aio.AioRpcError):
            await opened.stub.call("Unary", [Echo(text="a", command="defect")])
        (span,) = opened.spans.get_finished_spans()
        assert not span.status.is_ok
        assert span.attributes["error.type"] == "INTERNAL"


async def test_log_lines_of_a_call_carry_its_trace() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("catalog"))
    log = logging.getLogger("tessera_kit.rpc.pipeline")
    log.addHandler(handler)
    try:
        async with door() as opened:
            sent = (("traceparent", PARENT + "00"),)
            with pytest.raises(grpc.aio.AioRpcError):
                await opened.stub.call(
                    "Unary", [Echo(text="payload", command="defect")], metadata=sent
                )
    finally:
        log.removeHandler(handler)
    line = json.loads(stream.getvalue().splitlines()[0])
    assert line["trace_id"] == PARENT[3:35]
    assert line["rpc.method"] == f"{SERVICE}/Unary"
    assert line["service"] == "catalog"
    assert "RuntimeError" in line["exception"]
    assert TOKEN not in stream.getvalue()
    assert "payload" not in stream.getvalue()
