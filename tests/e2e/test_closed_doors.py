"""No door is open by oversight: every rpc and route asks for a token, and tells nothing without a
grant.

The rpcs are taken from the contracts and the routes from the services' tables, so that a new one is
here before anybody thinks of it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2

from devstack import Stack
from services.tracking.run_pages import page_routes
from tessera import AsyncClient
from tessera.catalog.v1 import authorization_service_pb2 as auth_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera.training.v1 import job_pb2
from tests.e2e.door_requests import LISTS, OPEN, OPEN_ROUTES, PUBLIC, REQUESTS
from tests.e2e.world import Served, User, new_user
from tests.gateway_door import GatewayDoor
from tests.helpers import unique_name
from tests.mlflow_door import Door

pytestmark = pytest.mark.timeout(420)

SERVICES = ("catalog", "tracking", "training", "inference", "monitoring")
DOORS = (*SERVICES, "gateway")
BY_THE_GATEWAY = frozenset({"PredictionService", "GRPCInferenceService"})
CALL_SECONDS = 60.0


REFUSALS = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED})


def rpcs() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every rpc of the five services and the gateway's, with the door that it is at."""
    for service in SERVICES:
        package = importlib.import_module(f"tessera.{service}.v1")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("_service_pb2"):
                continue
            descriptor = importlib.import_module(module.name).DESCRIPTOR
            for defined in descriptor.services_by_name.values():
                door = "gateway" if defined.name in BY_THE_GATEWAY else service
                for method in defined.methods:
                    yield door, method
    gateway = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    offered = {request.partition("/")[2] for request in REQUESTS if gateway.name in request}
    yield from (("gateway", method) for method in gateway.methods if method.name in offered)


def short(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}/{method.name}"


def test_every_rpc_has_a_request_here() -> None:
    assert {short(method) for _, method in rpcs()} == set(REQUESTS)


@dataclass(frozen=True, slots=True)
class World:
    """Things of the administrator's, and the door to each service."""

    names: Mapping[str, str]
    channels: Mapping[str, grpc.aio.Channel]

    def request(self, method: MethodDescriptor) -> Message:
        message: Message = GetMessageClass(method.input_type)()
        ParseDict(_filled(REQUESTS[short(method)], {**self.names, "new": unique_name()}), message)
        return message

    async def call(
        self, service: str, method: MethodDescriptor, token: str | None
    ) -> tuple[grpc.StatusCode, bytes]:
        """The status of a call, and the bytes that it answered."""
        channel = self.channels[service]
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        options: dict[str, Any] = {"metadata": metadata, "timeout": CALL_SECONDS}
        request = self.request(method).SerializeToString()
        try:
            if method.client_streaming and method.server_streaming:
                call = channel.stream_stream(path)(iter([request]), **options)
                return _in_band(method, await _first(call))
            if method.client_streaming:
                return grpc.StatusCode.OK, await channel.stream_unary(path)(
                    iter([request]), **options
                )
            if method.server_streaming:
                return grpc.StatusCode.OK, await _first(
                    channel.unary_stream(path)(request, **options)
                )
            return grpc.StatusCode.OK, await channel.unary_unary(path)(request, **options)
        except grpc.aio.AioRpcError as error:
            return error.code(), (error.details() or "").encode()


async def _first(call: Any) -> bytes:
    async for response in call:
        call.cancel()
        return bytes(response)
    return b""


def _in_band(method: MethodDescriptor, answer: bytes) -> tuple[grpc.StatusCode, bytes]:
    """The status within an answer of the inference protocol's stream, which has no other."""
    if method.name != "ModelStreamInfer":
        return grpc.StatusCode.OK, answer
    response = service_pb2.ModelStreamInferResponse.FromString(answer)
    code = response.infer_response.parameters["tessera_status_code"].int64_param
    by_number = {status.value[0]: status for status in grpc.StatusCode}
    return by_number[code], response.error_message.encode()


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format_map(names)
    if isinstance(value, Mapping):
        return {key: _filled(inner, names) for key, inner in value.items()}
    return [_filled(inner, names) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
async def stranger(client: AsyncClient) -> User:
    return await new_user(client)


@pytest.fixture(scope="module")
async def world(
    platform: Stack, client: AsyncClient, served: Served, stranger: User
) -> AsyncIterator[World]:
    other = await new_user(client)
    unique = unique_name("closed")
    await client.access.create_principal(unique, auth_pb2.PRINCIPAL_KIND_GROUP)
    volume = await client.catalog.create_volume(f"{served.schema}.{unique}")
    experiment = await client.tracking.create_experiment(unique)
    run = await client.tracking.create_run(experiment.experiment_id)
    job = await client.training.submit(
        job_pb2.JobSpec(name=unique, file=job_pb2.FileSource(name="job.py", content="print()\n"))
    )
    await client.monitoring.create(
        monitor_pb2.Monitor(
            name=unique,
            table_full_name=served.table,
            snapshot=monitor_pb2.SnapshotProfile(),
        )
    )
    await client.training.create_trigger(
        job_pb2.Trigger(
            name=unique,
            event=job_pb2.TRIGGER_EVENT_ALERT_FIRED,
            subject=unique,
            job=job_pb2.JobSpec(
                name=unique, file=job_pb2.FileSource(name="job.py", content="print()\n")
            ),
        )
    )
    names = {
        "user": stranger.name,
        "other": other.name,
        "other_token": other.token_id,
        "catalog": served.schema.partition(".")[0],
        "schema": served.schema,
        "model": served.model,
        "table": served.table,
        "endpoint": served.endpoint,
        "volume": volume.full_name,
        "experiment": experiment.experiment_id,
        "run": run.run_id,
        "job": job.job_id,
        "monitor": unique,
        "trigger": unique,
        "group": unique,
    }
    channels = {name: grpc.aio.insecure_channel(platform.urls[name]) for name in DOORS}
    yield World(names, channels)
    for channel in channels.values():
        await channel.close()


@pytest.mark.parametrize("token", [None, "", "tsr_unknown", "a b"])
async def test_no_rpc_answers_without_a_token_that_is_good(world: World, token: str | None) -> None:
    answers = {
        short(method): (await world.call(service, method, token))[0] for service, method in rpcs()
    }
    assert {name: code for name, code in answers.items() if code.name != "UNAUTHENTICATED"} == {}


async def routes() -> Sequence[tuple[str, str, str]]:
    """Every route of the HTTP doors: the door, the method and a path, its parameters filled in."""
    tracking = Door()
    tables = {
        "tracking_http": [*tracking.routes, *page_routes(tracking.cases, None)],
        "gateway_http": GatewayDoor().http_routes,
    }
    return [
        (door, route.method, re.sub(r"\{[^}]*\}", "1", route.path))
        for door, table in tables.items()
        for route in table
        if route.path not in OPEN_ROUTES
    ]


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer tsr_unknown", "Basic Og=="])
async def test_no_route_answers_without_a_token_that_is_good(
    platform: Stack, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answers: dict[str, Any] = {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for door, method, path in await routes():
            url = platform.urls[door]
            async with session.request(method, f"{url}{path}") as answer:
                answers[f"{method} {path}"] = answer.status
    assert len(answers) > 100
    assert {route: status for route, status in answers.items() if status != 401} == {}


async def test_the_gateway_offers_no_other_rpcs(world: World) -> None:
    channel = world.channels["gateway"]
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if short(method) in REQUESTS or method.name in OPEN or method.client_streaming:
            continue
        path = f"/{method.containing_service.full_name}/{method.name}"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(path)(b"", timeout=CALL_SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED, method.name


async def test_no_rpc_tells_or_changes_anything_without_a_grant(
    world: World, stranger: User
) -> None:
    secrets = [
        value.encode()
        for name, value in world.names.items()
        if name not in ("user", "catalog", "group", "trigger")
    ]
    wrong: dict[str, Any] = {}
    for service, method in rpcs():
        code, answer = await world.call(service, method, stranger.token)
        if code is grpc.StatusCode.OK:
            told = [secret for secret in secrets if secret in answer]
            if short(method) not in PUBLIC and (told or short(method) not in LISTS):
                wrong[short(method)] = (told, answer)
        elif code not in REFUSALS:
            wrong[short(method)] = (code.name, answer)
    assert not wrong, "\n".join(f"{name}: {answer}" for name, answer in sorted(wrong.items()))
