"""The door as grpc's own clients meet it: sizes, kinds of methods, deadlines, drain, TLS."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.inference.adapters.triton.wire import TritonWire
from services.inference.adapters.wire.door import WireDoor
from tests.certificates import Authorities, made_authorities
from tests.helpers import eventually
from tests.unit.inference.door_peer import COUNT, EACH, ECHO, SERVICE, SUM, EchoService, open_door

LARGEST = 64 << 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture
async def service() -> EchoService:
    return EchoService()


@pytest.fixture
async def door(service: EchoService) -> AsyncIterator[WireDoor]:
    door = open_door(service)
    await door.start()
    yield door
    await door.stop()


@pytest.fixture
async def channel(door: WireDoor) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(door.address, options=OPTIONS) as channel:
        yield channel


@pytest.mark.parametrize(
    "size", [0, 1, 16_379, 16_384, 65_530, 65_535, 65_536, 1_000_000, 3 << 20, 16 << 20]
)
async def test_messages_of_every_size_come_back(channel: grpc.aio.Channel, size: int) -> None:
    message = b"-" + os.urandom(size)
    assert await channel.unary_unary(ECHO)(message, timeout=60) == message


async def test_many_at_once_get_their_own_answers(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_unary(ECHO)
    messages = [b"%d " % i + os.urandom(i * 997 % 200_000) for i in range(400)]
    assert await asyncio.gather(*(call(one, timeout=60) for one in messages)) == messages


async def test_a_blocking_client_is_served(door: WireDoor) -> None:
    def ask() -> Any:
        with grpc.insecure_channel(door.address) as channel:
            return [channel.unary_unary(ECHO)(b"%d" % i, timeout=60) for i in range(50)]

    assert await asyncio.to_thread(ask) == [b"%d" % i for i in range(50)]


async def test_every_kind_of_method_is_served(channel: grpc.aio.Channel) -> None:
    async def numbers() -> Any:
        for number in range(100):
            yield b"%d" % number

    count = channel.unary_stream(COUNT)(b"40 100000", timeout=60)
    assert [len(one) async for one in count] == [100_002] * 10 + [100_003] * 30
    assert await channel.stream_unary(SUM)(numbers(), timeout=60) == b"4950"
    each = channel.stream_stream(EACH)(numbers(), timeout=60)
    assert [one async for one in each] == [b"%d" % number for number in range(100)]


async def test_metadata_goes_both_ways(channel: grpc.aio.Channel, service: EchoService) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(ECHO)(
            "fail ABORTED 100 % fühlt".encode(),
            metadata=(("x-key", "value"), ("x-bin", b"\0\xff")),
            timeout=60,
        )
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.ABORTED,
        "100 % fühlt",
    )
    assert ("x-key", "value") in service.seen
    assert ("x-bin", b"\0\xff") in service.seen
    told = dict(caught.value.trailing_metadata() or ())
    assert told == {"why": "asked for", "why-bin": b"\0\xff"}


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_taken(door: WireDoor, compression: Any) -> None:
    async with grpc.aio.insecure_channel(door.address, compression=compression) as channel:
        message = b"again and " * 100_000
        assert await channel.unary_unary(ECHO)(message, timeout=60) == message


async def test_too_large_a_message_is_refused_and_others_go_on(
    channel: grpc.aio.Channel,
) -> None:
    call: Any = channel.unary_unary(ECHO)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(bytes(LARGEST + 1), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call(b"small", timeout=60) == b"small"


async def test_a_deadline_and_a_cancel_end_the_handler(
    channel: grpc.aio.Channel, service: EchoService
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(ECHO)(b"wait", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: service.cancelled == 1)
    call = channel.unary_unary(ECHO)(b"wait", timeout=60)
    await eventually(lambda: service.running == 1)
    call.cancel()
    await eventually(lambda: service.cancelled == 2)


async def test_unknown_methods_are_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/no/Such")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_and_reflection_tell_of_the_service(channel: grpc.aio.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    asked = health_pb2.HealthCheckRequest(service=SERVICE)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert (await health.Check(asked, timeout=60)).status == serving
    async for told in health.Watch(asked, timeout=60):
        assert told.status == serving
        break
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([request]), timeout=60):
        names = {one.name for one in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_a_drain_gives_no_error(service: EchoService) -> None:
    door = open_door(service, drain_seconds=30)
    await door.start()
    async with grpc.aio.insecure_channel(door.address) as channel:
        call: Any = channel.unary_unary(ECHO)
        running = [call(b"wait", timeout=60) for _ in range(20)]
        await eventually(lambda: service.running == 20)
        stopping = asyncio.create_task(door.stop())
        await asyncio.sleep(0)  # its turn
        service.go.set()
        assert [await one for one in running] == [b"wait"] * 20
        await stopping


async def test_calls_that_do_not_end_are_cancelled(service: EchoService) -> None:
    door = open_door(service, drain_seconds=0.2)
    await door.start()
    async with grpc.aio.insecure_channel(door.address) as channel:
        call = channel.unary_unary(ECHO)(b"wait", timeout=60)
        await eventually(lambda: service.running == 1)
        await door.stop()
        assert service.cancelled == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await call


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return made_authorities(tmp_path_factory)


async def over_tls(door: WireDoor, authorities: Authorities, client: str | None) -> Any:
    credentials = grpc.ssl_channel_credentials(
        authorities.cert("ca").read_bytes(),
        authorities.key(client).read_bytes() if client else None,
        authorities.cert(client).read_bytes() if client else None,
    )
    async with grpc.aio.secure_channel(door.address, credentials, options=OPTIONS) as channel:
        message = os.urandom(3 << 20)
        return await channel.unary_unary(ECHO)(message, timeout=20) == message


async def test_tls_is_served_and_callers_certificates_are_checked(
    service: EchoService, authorities: Authorities
) -> None:
    files = {
        "tls_cert_file": authorities.cert("server"),
        "tls_key_file": authorities.key("server"),
    }
    door = open_door(service, **files)
    mutual = open_door(service, **files, tls_client_ca_file=authorities.cert("ca"))
    for one in (door, mutual):
        await one.start()
    assert await over_tls(door, authorities, None)
    assert await over_tls(mutual, authorities, "client")
    for stranger in (None, "stranger"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await over_tls(mutual, authorities, stranger)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with grpc.aio.insecure_channel(door.address) as plain:
        with pytest.raises(grpc.aio.AioRpcError):
            await plain.unary_unary(ECHO)(b"", timeout=20)
    await asyncio.gather(door.stop(), mutual.stop())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_large_messages_come_back_on_either_loop(run: Any, authorities: Authorities) -> None:
    files = {
        "tls_cert_file": authorities.cert("server"),
        "tls_key_file": authorities.key("server"),
    }

    async def ask() -> None:
        door, secure = open_door(EchoService()), open_door(EchoService(), **files)
        await asyncio.gather(door.start(), secure.start())
        messages = [os.urandom(size) for size in (100_000, 1 << 20, 5 << 20)]
        async with grpc.aio.insecure_channel(door.address, options=OPTIONS) as channel:
            call: Any = channel.unary_unary(ECHO)
            answers = await asyncio.gather(*(call(one, timeout=20) for one in messages))
        assert answers == messages
        assert await over_tls(secure, authorities, None)
        await asyncio.gather(door.stop(), secure.stop())

    run(ask())


async def test_the_lean_client_and_the_door_understand_each_other(door: WireDoor) -> None:
    runtime = TritonWire(door.address, max_message_bytes=LARGEST)
    messages = [b"%d " % i + os.urandom(i * i * 40) for i in range(200)]
    assert await asyncio.gather(*(runtime.infer(one, 60) for one in messages)) == messages
    await runtime.close()


async def test_a_unix_socket_is_served(service: EchoService, tmp_path: Path) -> None:
    door = open_door(service, f"unix:{tmp_path / 'door'}")
    await door.start()
    async with grpc.aio.insecure_channel(door.address) as channel:
        assert await channel.unary_unary(ECHO)(b"hello", timeout=20) == b"hello"
    await door.stop()
