"""The gateway over a runtime and a spool in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.trace import Tracer
from tritonclient.grpc import service_pb2

from services.inference.adapters.memory import InMemoryBudgets, InMemoryCapture, InMemoryRuntime
from services.inference.domain.endpoint import Endpoint
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.infer import InferenceHandler, InferenceLimits
from services.inference.gateway.limiter import RateLimiter
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.routing import RouteTable
from services.inference.gateway.shadows import Shadows
from services.inference.gateway.streams import StreamHandler, StreamLimits
from services.inference.ports import Capture, Runtime
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import SystemClock
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.telemetry.calls import ServerCalls
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.sampling import BoundedShare

Make = Callable[..., Any]


TRACE = "ab" * 16


class Aborted(Exception):
    """What a context raises when a call is aborted."""


class Context:
    """The part of a gRPC context that the handler uses."""

    def __init__(self, who: str = "alice-token", remaining: float | None = None) -> None:
        self.metadata = [("traceparent", f"00-{TRACE}-{'cd' * 8}-00")]
        if who:
            self.metadata.append(("authorization", f"Bearer {who}"))
        self.remaining = remaining
        self.trailing: dict[str, Any] = {}
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def invocation_metadata(self) -> Any:
        return tuple(self.metadata)

    def time_remaining(self) -> float | None:
        return self.remaining

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = dict(metadata)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = code, details
        raise Aborted

    @property
    def reason(self) -> str:
        status = status_pb2.Status.FromString(self.trailing["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return info.reason


class Gateway:
    """A handler with twins around it."""

    def __init__(
        self,
        endpoint: Endpoint,
        limits: InferenceLimits | None = None,
        tracer: Tracer | None = None,
        runtime: Runtime | None = None,
        stream_limits: StreamLimits | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.capture = InMemoryCapture()
        self.asked: list[Any] = []
        self.answer: Callable[[bytes], Awaitable[bytes]] = self._answer
        self.runtime = InMemoryRuntime(lambda request: self.answer(request))
        self.authority = InMemoryAuthority()
        for name in ("alice", "bob", "stranger"):
            self.authority.add_principal(Principal(name), f"{name}-token")
        for name, privilege in (
            ("alice", securable_pb2.PRIVILEGE_EXECUTE),
            ("bob", securable_pb2.PRIVILEGE_BROWSE),
        ):
            self.authority.grant(
                name, [privilege], securable_pb2.SECURABLE_TYPE_ENDPOINT, endpoint.name
            )
        self.routes = RouteTable()
        self.routes.put(endpoint)
        self.lost: list[str] = []
        self.looks = 0
        self.metrics = Metrics()
        counts = GatewayMetrics(self.metrics)
        self.recorder = Recorder(capture or self.capture, self.routes, counts)
        self.hold = RuntimeHold()
        asked = runtime or self.runtime
        self.shadows = Shadows(asked, self.recorder, counts)
        dispatcher = Dispatcher(
            self.routes, asked, self.shadows, self.hold, counts, self._on_lost, self._follow
        )
        self.handler = InferenceHandler(
            self.routes,
            authority=self.authority,
            limiter=RateLimiter(InMemoryBudgets(), SystemClock()),
            dispatcher=dispatcher,
            recorder=self.recorder,
            calls=ServerCalls(self.metrics, tracer, BoundedShare(0.0, 0.0)).method(
                "inference/ModelInfer"
            ),
            metrics=counts,
            limits=limits or InferenceLimits(),
        )
        self.streams = StreamHandler(
            self.handler,
            dispatcher,
            self.recorder,
            limits or InferenceLimits(),
            stream_limits or StreamLimits(),
        )

    async def _follow(self) -> None:
        """No other process changes anything."""
        self.looks += 1
        await asyncio.sleep(0)

    def _on_lost(self, runtime_name: str) -> None:
        self.lost.append(runtime_name)

    async def _answer(self, request: bytes) -> bytes:
        message = service_pb2.ModelInferRequest.FromString(request)
        self.asked.append(message)
        response = service_pb2.ModelInferResponse(
            model_name=message.model_name, model_version="1", id=message.id
        )
        response.outputs.add(name="probability", datatype="FP32", shape=[1, 1])
        response.raw_output_contents.append(b"\0\0\0\0")
        return response.SerializeToString()

    async def infer(self, request: Any, context: Context) -> Any:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        reply = await self.handler.infer(data, context)  # type: ignore[arg-type]
        return service_pb2.ModelInferResponse.FromString(reply)

    async def refused(self, request: Any, context: Context) -> None:
        with pytest.raises(Aborted):
            await self.infer(request, context)

    @property
    def records(self) -> list[pb.PayloadRecord]:
        return [pb.PayloadRecord.FromString(record) for record in self.capture.records]
