"""Health by protocol: each probe asks one real question and gets the answer, or raises."""

from __future__ import annotations

import asyncio
import struct

from devstack.spec import Probe

TIMEOUT = 5.0
"""Seconds that one question may take."""


class NotReady(Exception):
    """The process answers, but not yet as it should."""


def http(host: str, port: int, path: str, expect: bytes = b"") -> Probe:
    """GET `path` answers 200 and, where `expect` is given, a body that holds it."""

    async def probe() -> None:
        status, body = await http_request(host, port, f"GET {path}", {})
        if status != 200 or expect not in body:
            raise NotReady(f"GET {path} answered {status}")

    return probe


async def http_request(
    host: str, port: int, method_and_path: str, headers: dict[str, str]
) -> tuple[int, bytes]:
    """One HTTP/1.1 request without a body over its own connection; returns status and body."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            lines = [f"{method_and_path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = head.split(b" ", 2)
    if len(fields) < 2 or not fields[1].isdigit():
        raise NotReady("the answer is not HTTP")
    return int(fields[1]), body


def kafka(host: str, port: int) -> Probe:
    """A Kafka Metadata request (version 1, no topics) comes back with at least one broker."""
    client = b"tessera-probe"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    request = struct.pack(">i", len(body)) + body

    async def probe() -> None:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                (length,) = struct.unpack(">i", await reader.readexactly(4))
                answer = await reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                raise NotReady("the broker closed the connection") from error
            finally:
                writer.close()
        _, brokers = struct.unpack_from(">ii", answer)
        if brokers < 1:
            raise NotReady("the metadata names no broker")

    return probe


def grpc_health(target: str) -> Probe:
    """`grpc.health.v1.Health/Check` of the whole server answers SERVING."""

    async def probe() -> None:
        # Imported here: only a stack that runs services pays for grpc in its supervisor.
        import grpc
        from grpc_health.v1 import health_pb2

        host, _, port = target.rpartition(":")
        # A refused connection says so at once and costs less than a channel.
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
            except grpc.aio.AioRpcError as error:
                raise NotReady(f"{error.code().name}: {error.details()}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            raise NotReady(f"health is {name}")

    return probe
