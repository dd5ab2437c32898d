"""The gateway's doors over twins in memory: by HTTP as an application or a port, by gRPC calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from services.inference.adapters.memory import InMemoryBudgets, InMemoryCapture, InMemoryRuntime
from services.inference.domain.endpoint import (
    Endpoint,
    EndpointConfig,
    InferenceTable,
    ServedEntity,
)
from services.inference.domain.signature import parse_manifest
from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.infer import InferenceHandler, InferenceLimits
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.predictions import PredictionHandler
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.routing import RouteTable
from services.inference.gateway.shadows import Shadows
from services.inference.rest.errors import oip_error
from services.inference.rest.routes import gateway_routes
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import inference_events_pb2 as pb
from tessera.inference.v1 import prediction_service_pb2
from tessera_kit.clock import SystemClock
from tessera_kit.config import HttpConfig
from tessera_kit.http.app import HttpApp
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.telemetry.setup import Telemetry
from tests.mlflow_door import Answer

ALICE, BOB, STRANGER = "alice-token", "bob-token", "stranger-token"
MOST_BODY = 1 << 20
SIGNATURE: dict[str, Any] = {
    "flavor": "torch_export",
    "file": "model.pt2",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "n", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "note", "datatype": "BYTES", "shape": [-1, 1], "role": "METADATA"},
    ],
    "outputs": [
        {"name": "sum", "datatype": "FP32", "shape": [-1, 1]},
        {"name": "next", "datatype": "INT64", "shape": [-1, 1]},
    ],
}
ONE_INPUT: dict[str, Any] = {
    "flavor": "torch_export",
    "file": "model.pt2",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1, 1]}],
}


def endpoint(
    name: str, signature: Mapping[str, Any] = SIGNATURE, shares: Sequence[int] = (100,)
) -> Endpoint:
    """An endpoint that answers."""
    now = datetime(2026, 11, 27, tzinfo=UTC)
    entities = tuple(
        ServedEntity(
            name=f"model-{number}",
            model_name="main.default.model",
            model_version=number,
            model_alias="",
            traffic_percent=share,
            instance_count=1,
            runtime_name=f"tessera-{name}-{number}",
            signature=parse_manifest(json.dumps(signature).encode()),
        )
        for number, share in enumerate(shares, 1)
    )
    return Endpoint(
        endpoint_id=f"id-{name}",
        name=name,
        comment="",
        table_prefix=name,
        table=InferenceTable(f"main.default.{name}_payload", "main_default", f"{name}_payload"),
        created_by="alice",
        created_at=now,
        updated_at=now,
        etag="etag-1",
        config=EndpointConfig(1, entities, now),
        last_config_version=1,
    )


async def sums(request: bytes) -> bytes:
    """A model's answer: the sum of each row of x, and n + 1 where n is asked."""
    asked = service_pb2.ModelInferRequest.FromString(request)
    given = dict(zip([one.name for one in asked.inputs], asked.raw_input_contents, strict=True))
    outputs = {"sum": ("FP32", np.frombuffer(given["x"], "<f4").reshape(-1, 2).sum(1))}
    if "n" in given:
        with np.errstate(over="ignore"):
            outputs["next"] = ("INT64", np.frombuffer(given["n"], "<i8") + 1)
    reply = service_pb2.ModelInferResponse(model_name=asked.model_name, id=asked.id)
    for name in [one.name for one in asked.outputs] or list(outputs):
        datatype, values = outputs[name]
        reply.outputs.add(name=name, datatype=datatype, shape=[len(values), 1])
        reply.raw_output_contents.append(values.tobytes())
    return reply.SerializeToString()


class Refused(Exception):
    """A call ended with another status than OK."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailing = dict(trailing)


class Context:
    """The part of a gRPC call's context that the gateway's handlers use."""

    def __init__(
        self, token: str, metadata: Sequence[tuple[str, str]] = (), seconds: float | None = None
    ) -> None:
        authorization = [("authorization", f"Bearer {token}")] if token else []
        self._metadata = (*authorization, *metadata)
        self._seconds = seconds
        self.trailing: Any = ()

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._seconds

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details, self.trailing)


class GatewayDoor:
    """The door; `alice` may query its endpoints, `bob` see them, a stranger neither."""

    def __init__(self, limits: InferenceLimits | None = None, *, seconds: float = 30.0) -> None:
        self.capture = InMemoryCapture()
        self.answer: Callable[[bytes], Awaitable[bytes]] = sums
        self.runtime = InMemoryRuntime(lambda request: self.answer(request))
        self.authority = InMemoryAuthority()
        self.routes = RouteTable()
        self.routes.put(endpoint("model", shares=(50, 50)))
        self.routes.put(endpoint("plain", ONE_INPUT))
        self.routes.put(replace(endpoint("later"), config=None))
        for who, token, privileges in (
            ("alice", ALICE, [securable_pb2.PRIVILEGE_EXECUTE]),
            ("bob", BOB, [securable_pb2.PRIVILEGE_BROWSE]),
            ("stranger", STRANGER, []),
        ):
            self.authority.add_principal(Principal(who), token)
            for name in ("model", "plain", "later"):
                self.authority.grant(who, privileges, securable_pb2.SECURABLE_TYPE_ENDPOINT, name)
        telemetry = Telemetry()
        counts = GatewayMetrics(telemetry.metrics)
        recorder = Recorder(self.capture, self.routes, counts)
        shadows = Shadows(self.runtime, recorder, counts)
        self.infer = InferenceHandler(
            self.routes,
            authority=self.authority,
            limiter=RateLimiter(InMemoryBudgets(), SystemClock()),
            dispatcher=Dispatcher(
                self.routes,
                self.runtime,
                shadows,
                RuntimeHold(),
                counts,
                lost=lambda _: None,
                follow=partial(asyncio.sleep, 0),
            ),
            recorder=recorder,
            calls=telemetry.server_calls().method("inference/ModelInfer"),
            metrics=counts,
            limits=limits or InferenceLimits(),
        )
        self.predictions = PredictionHandler(
            self.infer,
            telemetry.server_calls().method("PredictionService/Predict"),
            most=MOST_BODY,
        )
        self.descriptions = Descriptions(self.routes, self.authority, "1.2.3")
        self.http_routes = gateway_routes(
            self.infer,
            self.descriptions,
            max_body_bytes=MOST_BODY,
            max_message_bytes=MOST_BODY,
            seconds=seconds,
        )
        self._telemetry = telemetry
        self._app = HttpApp(
            self.http_routes,
            authenticator=self.authority,
            calls=telemetry.server_calls(),
            max_concurrent=64,
            max_body_bytes=MOST_BODY,
            call_seconds=seconds,
            stream_seconds=60.0,
            render=oip_error,
        )

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[str]:
        """Answer at a port of this machine; gives `host:port`."""
        server = build_http_server(
            HttpConfig("127.0.0.1:0", drain_seconds=1.0),
            self.http_routes,
            authenticator=self.authority,
            telemetry=self._telemetry,
            render=oip_error,
        )
        await server.start()
        try:
            yield server.address.removeprefix("http://")
        finally:
            await server.stop()

    @property
    def records(self) -> list[pb.PayloadRecord]:
        """What was kept of requests."""
        return [pb.PayloadRecord.FromString(record) for record in self.capture.records]

    async def predict(
        self,
        request: prediction_service_pb2.PredictRequest | bytes,
        token: str = ALICE,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> prediction_service_pb2.PredictResponse:
        """Ask by `PredictionService`.

        Raises:
            Refused: The call ended with another status than OK.
        """
        data = request if isinstance(request, bytes) else request.SerializeToString()
        context: Any = Context(token, metadata)
        answer = await self.predictions.predict(data, context)
        return prediction_service_pb2.PredictResponse.FromString(answer)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | Any = b"",
        *,
        token: str = ALICE,
        headers: Mapping[str, str] | None = None,
        leaves: asyncio.Event | None = None,
    ) -> Answer:
        """Send one request.

        Args:
            method: `GET`, ...
            path: Escaped.
            body: Bytes, or what becomes JSON.
            token: The caller's; none when empty.
            headers: More of them, which take precedence.
            leaves: When the caller closes the connection; never when None.
        """
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"content-type": "application/json", "content-length": str(len(content))}
        if token:
            named["authorization"] = f"Bearer {token}"
        named |= {name.lower(): value for name, value in (headers or {}).items()}
        plain_path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": unquote(plain_path),
            "raw_path": plain_path.encode(),
            "query_string": query.encode(),
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in named.items()],
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
        }
        told: list[Any] = []
        waiting = [
            {"type": "http.request", "body": content[at : at + 65536], "more_body": True}
            for at in range(0, len(content), 65536)
        ] + [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if waiting:
                return waiting.pop(0)
            await (leaves or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            told.append(message)

        await self._app(scope, receive, send)
        if not told:
            return Answer(0, {}, b"")
        chunks = b"".join(one.get("body", b"") for one in told[1:])
        found = {name.decode(): value.decode() for name, value in told[0]["headers"]}
        return Answer(told[0]["status"], found, chunks)
