"""The MLflow door over use cases in memory, called as an ASGI application without sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote, urlencode

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from services.tracking.adapters.memory.store import InMemoryStore
from services.tracking.adapters.memory.traces import InMemorySpans
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.handlers.cases import Outside, Places, UseCases, build_use_cases
from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.protos import all_rpcs
from services.tracking.mlflow.routes import mlflow_routes
from services.tracking.ports.models import ModelRegistry
from services.tracking.ports.webhooks import Hooks
from tessera.catalog.v1 import securable_pb2
from tessera_kit.http.app import HttpApp
from tessera_kit.http.routes import HttpRoute, RouteTable
from tessera_kit.rpc.authority import Authority, InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.telemetry.setup import Telemetry

ALICE, BOB = "alice-token", "bob-token"
API = "/api/2.0/mlflow/"


@dataclass(frozen=True)
class Answer:
    """What the door answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and error code; for answers that are errors."""
        return self.status, self.json()["error_code"]


class Door:
    """The door, and everything behind it in memory; `alice` may create experiments, `bob` not."""

    def __init__(
        self,
        authority: Authority | None = None,
        registry: ModelRegistry | None = None,
        *,
        hooks: Hooks | None = None,
        token: str = ALICE,
    ) -> None:
        self.authority = authority or _two_people()
        self.registry = registry
        self._token = token
        self.store = InMemoryStore()
        self.objects = InMemoryObjectStore()
        self.cases: UseCases = build_use_cases(
            Outside(
                self.store,
                ObjectArtifacts(self.objects),
                InMemorySpans(),
                self.authority,
                registry=registry,
                hooks=hooks,
            ),
            Places("s3://test/tracking"),
        )
        self.routes = mlflow_routes(self.cases)
        self._app = HttpApp(
            self.routes,
            authenticator=self.authority,
            calls=Telemetry().server_calls(),
            max_concurrent=1024,
            max_body_bytes=64 << 20,
            call_seconds=60.0,
            stream_seconds=600.0,
            render=mlflow_error,
        )

    async def keys(self) -> list[str]:
        """Return the keys of all objects."""
        return [info.key async for info in self.objects.list("")]

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        token: str | None = "",
        content_type: str | None = "application/json",
        query: Any = None,
        extra: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, with extra headers; `path` is not escaped further."""
        headers = [(name.encode(), value.encode()) for name, value in (extra or {}).items()]
        headers += [(b"content-length", str(len(body)).encode())]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token or self._token}".encode()))
        if content_type is not None:
            headers.append((b"content-type", content_type.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": urlencode(query or {}, doseq=True).encode(),
            "headers": headers,
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
        }
        told: list[Any] = []
        sent = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return sent.pop(0) if sent else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            told.append(message)

        await self._app(scope, receive, send)
        chunks = b"".join(one.get("body", b"") for one in told[1:])
        found = {name.decode(): value.decode() for name, value in told[0]["headers"]}
        return Answer(told[0]["status"], found, chunks)

    async def call(self, method: str, path: str, fields: Any = None, **named: Any) -> Answer:
        """Send JSON below `/api/2.0/mlflow/`; a GET's fields go into the query.

        Every answer that is no error must be the rpc's response, field by field.
        """
        full = path if path.startswith("/") else API + path
        if method == "GET":
            answer = await self.send(method, full, query=fields, **named)
        else:
            answer = await self.send(method, full, json.dumps(fields or {}).encode(), **named)
        if answer.status == 200:
            _check_response(method, full, answer)
        return answer

    async def ok(self, method: str, path: str, fields: Any = None, **named: Any) -> Any:
        """As `call`, and return the JSON of an answer that must be a success."""
        answer = await self.call(method, path, fields, **named)
        assert answer.status == 200, answer.body
        return answer.json()

    async def experiment(self, name: str = "one", **named: Any) -> str:
        """Create an experiment and return its id."""
        fields = {"name": name, **named}
        created: str = (await self.ok("POST", "experiments/create", fields))["experiment_id"]
        return created

    async def run(self, experiment_id: str = "0", **named: Any) -> str:
        """Create a run and return its id."""
        fields = {"experiment_id": experiment_id, "start_time": 1000, **named}
        created: str = (await self.ok("POST", "runs/create", fields))["run"]["info"]["run_id"]
        return created


def _two_people() -> Authority:
    authority = InMemoryAuthority()
    authority.add_principal(Principal("alice"), ALICE)
    authority.add_principal(Principal("bob"), BOB)
    authority.grant(
        "alice",
        [securable_pb2.PRIVILEGE_CREATE_EXPERIMENT],
        securable_pb2.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    return authority


def _check_response(method: str, path: str, answer: Answer) -> None:
    table, responses = _rpc_table()
    route, _ = table.find(method, path)
    ParseDict(answer.json(), responses[route.name]())


@cache
def _rpc_table() -> tuple[RouteTable, dict[str, type[Message]]]:
    async def unused(request: Any) -> Any:
        raise AssertionError("routes of this table are only found")

    routes = [
        HttpRoute(method, path, unused, rpc.name)
        for rpc in all_rpcs()
        for method, path in rpc.endpoints
    ]
    return RouteTable(routes), {rpc.name: rpc.response for rpc in all_rpcs()}
