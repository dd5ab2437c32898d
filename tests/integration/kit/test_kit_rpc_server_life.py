"""The gRPC server's life and what it tells: health, stopping, metrics, spans, logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tessera_kit.config import RpcConfig
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.server import build_server
from tessera_kit.telemetry.logs import JsonFormatter
from tests.helpers import eventually
from tests.integration.kit.echo_door import TOKEN, Echo, door
from tests.kit_echo import KINDS, SERVICE, binding


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


@pytest.mark.parametrize(
    ("ratio", "most", "spans"), [(0.0, 0.0, 0), (1.0, 0.0, 5), (1.0, 0.001, 1)]
)
async def test_the_share_of_traces_begun_here(ratio: float, most: float, spans: int) -> None:
    async with door(ratio, most) as opened:
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
