"""The HTTP server over real sockets: identity, limits, errors, streams, telemetry, draining."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tessera_kit.config import ConfigError, HttpConfig
from tessera_kit.errors import NotFound
from tessera_kit.http.routes import HttpRoute
from tessera_kit.http.server import HttpServer, build_http_server
from tessera_kit.http.status import json_response
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.deadline import time_remaining
from tessera_kit.rpc.identity import Principal, current_principal
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.propagation import current_trace_id
from tessera_kit.telemetry.setup import Telemetry

TOKEN = {"authorization": "Bearer token"}


async def echo(request: Request) -> Response:
    body = await request.body()
    return json_response(
        {
            "caller": current_principal().name,
            "bytes": len(body),
            "params": request.path_params,
            "trace": current_trace_id(),
            "left": time_remaining(),
        }
    )


async def missing(request: Request) -> Response:
    raise NotFound("no such thing", metadata={"thing": "1"})


async def broken(request: Request) -> Response:
    raise KeyError("secret detail")


async def slow(request: Request) -> Response:
    await asyncio.sleep(float(request.query_params.get("seconds", "30")))
    return Response(b"done")


async def health(request: Request) -> Response:
    return Response(b"OK")


async def cut(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise NotFound("the rest is gone")

    return StreamingResponse(chunks())


async def count(request: Request) -> Response:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
    return json_response({"bytes": total})


ROUTES = (
    HttpRoute("POST", "/echo", echo, "test/echo"),
    HttpRoute("GET", "/things/{name}/parts/{number:int}", echo, "test/part"),
    HttpRoute("GET", "/missing", missing, "test/missing"),
    HttpRoute("GET", "/broken", broken, "test/broken"),
    HttpRoute("GET", "/slow", slow, "test/slow"),
    HttpRoute("GET", "/cut", cut, "test/cut", streams=True),
    HttpRoute("PUT", "/files/{path:path}", count, "test/put", max_body_bytes=10_000_000),
    HttpRoute("GET", "/health", health, "test/health", open=True),
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """An HTTP client that reads every answer whole."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(
        self, method: str, path: str, data: Any = None, headers: Mapping[str, str] = TOKEN
    ) -> Answer:
        async with self._session.request(method, path, data=data, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def running(
    config: HttpConfig | None = None, routes: Sequence[HttpRoute] = ROUTES
) -> AsyncIterator[tuple[HttpServer, Client, Metrics]]:
    authority = InMemoryAuthority()
    authority.add_principal(Principal("alice"), "token")
    metrics = Metrics(CollectorRegistry())
    server = build_http_server(
        config or HttpConfig("127.0.0.1:0", max_body_bytes=1000, drain_seconds=5),
        routes,
        authenticator=authority,
        telemetry=Telemetry(metrics=metrics),
    )
    await server.start()
    try:
        async with aiohttp.ClientSession(server.address) as session:
            yield server, Client(session), metrics
    finally:
        await server.stop()


async def test_the_caller_is_known_by_bearer_or_by_basic_password() -> None:
    basic = base64.b64encode(b"anyone:token").decode()
    async with running() as (_, client, _metrics):
        for header in ("Bearer token", "bearer token", f"Basic {basic}"):
            answer = await client("POST", "/echo", b"abc", {"authorization": header})
            assert (answer.status, answer.json()["caller"]) == (200, "alice")
            assert answer.json()["bytes"] == 3


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", "Basic !!!", "Basic " + "a" * 8192, "Basic YQ==", "Digest x"],
)
async def test_a_wrong_token_is_401_with_a_challenge(header: str) -> None:
    async with running() as (_, client, _metrics):
        answer = await client("POST", "/echo", None, {"authorization": header})
        assert answer.status == 401
        assert "Bearer" in answer.headers["www-authenticate"]
        assert answer.json()["error"]["code"] == "UNAUTHENTICATED"


async def test_open_routes_need_no_token_and_the_rest_do() -> None:
    async with running() as (_, client, _metrics):
        assert (await client("GET", "/health", None, {})).body == b"OK"
        assert (await client("HEAD", "/health", None, {})).body == b""
        assert (await client("POST", "/echo", None, {})).status == 401


async def test_paths_with_parameters_and_unknown_ones() -> None:
    async with running() as (_, client, _metrics):
        answer = await client("GET", "/things/a%20b/parts/7")
        assert answer.json()["params"] == {"name": "a b", "number": 7}
        assert (await client("GET", "/things/a/parts/x")).status == 404
        refused = await client("DELETE", "/echo")
        assert (refused.status, refused.headers["allow"]) == (405, "POST")


async def test_errors_of_the_tree_have_their_status_and_defects_keep_their_text() -> None:
    async with running() as (_, client, metrics):
        answer = await client("GET", "/missing")
        assert answer.status == 404
        assert answer.json() == {
            "error": {"code": "NOT_FOUND", "reason": "NOT_FOUND", "message": "no such thing"}
        }
        broken = await client("GET", "/broken")
        assert broken.status == 500
        assert b"secret" not in broken.body
        counted = metrics.registry.get_sample_value(
            "rpc_server_call_duration_seconds_count",
            {"rpc_method": "test/missing", "rpc_response_status_code": "NOT_FOUND"},
        )
        assert counted == 1


async def test_a_body_beyond_the_bound_is_413_announced_or_not() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with running() as (_, client, _metrics):
        assert (await client("POST", "/echo", b"x" * 1000)).status == 200
        assert (await client("POST", "/echo", b"x" * 1001)).status == 413
        assert (await client("POST", "/echo", chunks())).status == 413
        answer = await client("PUT", "/files/a", b"x" * 500_000)
        assert answer.json() == {"bytes": 500_000}


async def test_a_call_ends_with_its_deadline() -> None:
    config = HttpConfig("127.0.0.1:0", deadline_seconds=0.2)
    async with running(config) as (_, client, _metrics):
        assert (await client("GET", "/slow")).status == 504
        assert 0 < (await client("POST", "/echo")).json()["left"] <= 0.2


async def test_too_many_calls_are_429_and_say_when_to_come_back() -> None:
    config = HttpConfig("127.0.0.1:0", max_concurrent=1)
    async with running(config) as (_, client, _metrics):
        first = asyncio.create_task(client("GET", "/slow?seconds=2"))
        refused = await client("POST", "/echo")
        while refused.status == 200:
            refused = await client("POST", "/echo")
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert (await first).status == 200


async def test_a_stream_that_fails_is_cut_and_does_not_look_complete() -> None:
    async with running() as (_, client, _metrics):
        with pytest.raises(aiohttp.ClientPayloadError):
            await client("GET", "/cut")


async def test_a_request_joins_the_trace_that_its_caller_names() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with running() as (_, client, _metrics):
        headers = {**TOKEN, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert (await client("POST", "/echo", None, headers)).json()["trace"] == trace
        assert (await client("POST", "/echo")).json()["trace"] not in (None, trace)


async def test_stopping_lets_running_requests_end() -> None:
    begun = asyncio.Event()

    async def working(request: Request) -> Response:
        begun.set()
        await asyncio.sleep(0.3)
        return Response(b"done")

    routes = [HttpRoute("GET", "/work", working, "test/work")]
    async with running(routes=routes) as (server, client, _metrics):
        call = asyncio.create_task(client("GET", "/work"))
        await begun.wait()
        await server.stop()
        assert (await call).body == b"done"
        with pytest.raises(aiohttp.ClientConnectorError):
            await client("GET", "/work")


def test_two_routes_of_one_name_are_refused() -> None:
    authority = InMemoryAuthority()
    with pytest.raises(ValueError, match="two routes"):
        build_http_server(
            HttpConfig("127.0.0.1:0"), [ROUTES[0], ROUTES[0]], authenticator=authority
        )


def test_settings_and_wrong_tls_files(tmp_path: Path) -> None:
    config = HttpConfig.from_env(
        {"TESSERA_TRACKING_HTTP_LISTEN": "127.0.0.1:0", "TESSERA_HTTP_MAX_BODY_BYTES": "9"},
        "tracking",
    )
    assert config.max_body_bytes == 9
    with pytest.raises(ConfigError, match="must be set together"):
        HttpConfig.from_env({"TESSERA_TLS_CERT_FILE": "x"}, "tracking")
    missing = HttpConfig(
        "127.0.0.1:0", tls_cert_file=tmp_path / "none", tls_key_file=tmp_path / "none"
    )
    with pytest.raises(ConfigError, match="TLS"):
        build_http_server(missing, ROUTES, authenticator=InMemoryAuthority())
