"""The server builder, over real sockets: all four kinds of call through the whole pipeline."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tessera_kit.config import RpcConfig
from tessera_kit.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.server import build_server
from tessera_kit.rpc.status import INTERNAL_MESSAGE, error_from_rpc
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import eventually
from tests.integration.kit.echo_door import TOKEN, Echo, EchoServicer, door
from tests.kit_echo import KINDS, SERVICE, Stub, binding


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
