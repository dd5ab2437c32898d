"""What the gateway tells of an endpoint by the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.protocol import SERVICE_NAME, InferenceProtocol
from services.inference.gateway.routing import RouteTable
from tessera.catalog.v1 import securable_pb2
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal

Make = Callable[..., Any]


class Refused(Exception):
    """What a context raises when a call is aborted."""


class Context:
    """The part of a call's context that the protocol uses."""

    def __init__(self, token: str) -> None:
        self.token = token

    def invocation_metadata(self) -> Any:
        return (("authorization", f"Bearer {self.token}"),)

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details)


@pytest.fixture
def routes(make_endpoint: Make) -> RouteTable:
    routes = RouteTable()
    routes.put(make_endpoint(shares=(90, 10)))
    return routes


@pytest.fixture
def ask(routes: RouteTable) -> Callable[..., Any]:
    authority = InMemoryAuthority()
    for name in ("alice", "bob", "stranger"):
        authority.add_principal(Principal(name), f"{name}-token")
    endpoint = securable_pb2.SECURABLE_TYPE_ENDPOINT
    authority.grant("alice", [securable_pb2.PRIVILEGE_EXECUTE], endpoint, "flights")
    authority.grant("bob", [securable_pb2.PRIVILEGE_BROWSE], endpoint, "flights")
    infer: Any = SimpleNamespace(infer=None)
    streams: Any = SimpleNamespace(stream=None)
    protocol = InferenceProtocol(Descriptions(routes, authority, "1.2.3"), infer, streams)

    async def call(method: str, who: str = "alice", **fields: Any) -> Any:
        details: Any = SimpleNamespace(method=f"/{SERVICE_NAME}/{method}")
        handler: Any = protocol.service(details)
        request = getattr(service_pb2, f"{method}Request")(**fields)
        return await handler.unary_unary(request, Context(f"{who}-token"))

    return call


async def test_the_config_says_how_to_ask(ask: Any) -> None:
    config = (await ask("ModelConfig", name="flights")).config
    assert (config.name, config.max_batch_size > 1) == ("flights", True)
    # Rows are the batch: their dimension is not told again.
    assert [(one.name, list(one.dims), one.optional) for one in config.input] == [
        ("x", [4], False),
        ("carrier", [1], False),
        ("flown_at", [1], True),
    ]
    assert [(one.name, list(one.dims)) for one in config.output] == [("probability", [1])]


async def test_statistics_count_what_each_version_answered(ask: Any, routes: RouteTable) -> None:
    first, second = routes.find("flights").entities
    first.count(True, 500)
    first.count(True, 700)
    second.count(False, 90)
    found = (await ask("ModelStatistics", name="flights")).model_stats
    assert [(one.name, one.version, one.inference_count) for one in found] == [
        ("flights", "1", 2),
        ("flights", "2", 0),
    ]
    assert found[0].inference_stats.success.ns == 1200
    # perf_analyzer takes the version whose queue count grew for the one that it asked, and wants
    # the counts of all parts to agree.
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert [getattr(found[0].inference_stats, part).count for part in parts] == [2, 2, 2, 2]
    assert [getattr(found[1].inference_stats, part).count for part in parts] == [0, 0, 0, 0]
    assert (found[1].inference_stats.fail.count, found[1].inference_stats.fail.ns) == (1, 90)
    (alone,) = (await ask("ModelStatistics", name="flights", version="2")).model_stats
    assert alone.version == "2"


@pytest.mark.parametrize("method", ["ModelConfig", "ModelStatistics", "ModelMetadata"])
@pytest.mark.parametrize(
    ("who", "fields", "code"),
    [
        ("bob", {"name": "flights"}, grpc.StatusCode.PERMISSION_DENIED),
        ("eve", {"name": "flights"}, grpc.StatusCode.UNAUTHENTICATED),
        ("stranger", {"name": "flights"}, grpc.StatusCode.NOT_FOUND),
        ("stranger", {"name": "trains"}, grpc.StatusCode.NOT_FOUND),
        ("alice", {"name": "trains"}, grpc.StatusCode.NOT_FOUND),
        ("alice", {"name": "flights", "version": "9"}, grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_only_callers_of_the_endpoint_are_told(
    ask: Any, method: str, who: str, fields: dict[str, str], code: grpc.StatusCode
) -> None:
    with pytest.raises(Refused) as caught:
        await ask(method, who, **fields)
    assert caught.value.args[0] is code
