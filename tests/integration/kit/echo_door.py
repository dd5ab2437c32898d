"""An echo behind the kit's gRPC server, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tessera_kit.config import RpcConfig, Secret
from tessera_kit.errors import Aborted, NotFound
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.deadline import time_remaining
from tessera_kit.rpc.identity import Principal, current_principal
from tessera_kit.rpc.server import RpcServer, build_server
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.propagation import current_trace_id
from tessera_kit.telemetry.sampling import BoundedShare, ParentOrRatio
from tessera_kit.telemetry.setup import Telemetry
from tests.kit_echo import Stub, binding, message

Echo = message("Echo")
ALICE, TOKEN = Principal("alice", groups=frozenset({"team"})), "tsr_alice_secret"


class EchoServicer:
    """Does what a request's `command` says, in each kind of call."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.closed = 0
        self.release = asyncio.Event()

    async def act(self, request: Any, context: Any) -> Any:
        match request.command:
            case "not found":
                raise NotFound("no such thing", metadata={"name": request.text})
            case "defect":
                raise RuntimeError("the database password is swordfish")
            case "wait":
                self.started.set()
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "nothing":
                return None
            case "stray cancellation":
                task = asyncio.create_task(asyncio.Event().wait())
                task.cancel()
                await task
            case "who":
                return Echo(text=current_principal().name)
            case "trace":
                return Echo(text=current_trace_id() or "")
            case "left":
                return Echo(text=str(time_remaining()))
            case "trailing then fail":
                context.set_trailing_metadata((("tessera-request-id", "42"),))
                raise Aborted("etag mismatch")
        return Echo(text=request.text, number=request.number)

    async def Unary(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.act(request, context)

    async def ServerStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            yield await self.act(request, context)
            yield Echo(text="more")
            if request.command == "endless":
                while True:
                    yield Echo(text="x" * 100)
        finally:
            self.closed += 1

    async def ClientStream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        last = None
        async for request in requests:
            last = await self.act(request, context)
        return last

    async def Bidirectional(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in requests:
            yield await self.act(request, context)


class Door:
    """A running server and a client of it."""

    def __init__(self, server: RpcServer, servicer: EchoServicer, stub: Stub) -> None:
        self.server, self.servicer, self.stub = server, servicer, stub
        self.metrics, self.spans = Metrics(), InMemorySpanExporter()


@asynccontextmanager
async def door(
    ratio: float = 0.0, most_per_second: float = 0.0, **settings: Any
) -> AsyncIterator[Door]:
    authority = InMemoryAuthority()
    authority.add_principal(ALICE, TOKEN)
    servicer, metrics, spans = EchoServicer(), Metrics(), InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentOrRatio(0.0), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    server = build_server(
        RpcConfig(listen="127.0.0.1:0", **{"drain_seconds": 5.0, **settings}),
        [binding(servicer)],
        authenticator=authority,
        telemetry=Telemetry(
            metrics=metrics,
            tracer=provider.get_tracer("test"),
            recorded=BoundedShare(ratio, most_per_second),
        ),
    )
    await server.start()
    try:
        async with open_channel(server.address, token=Secret(TOKEN), retry=False) as channel:
            opened = Door(server, servicer, Stub(channel))
            opened.metrics, opened.spans = metrics, spans
            yield opened
    finally:
        await server.stop()
        provider.shutdown()
