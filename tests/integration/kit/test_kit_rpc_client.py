"""Channels: deadlines, retries, tokens, trace context, TLS and mTLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanKind

from tessera_kit.config import ConfigError, RpcConfig, Secret
from tessera_kit.errors import NotFound, Unavailable
from tessera_kit.rpc import deadline
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.deadline import time_remaining
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.server import RpcServer, build_server
from tessera_kit.rpc.tls import ClientTls
from tessera_kit.telemetry import calls, names
from tessera_kit.telemetry.metrics import process_metrics
from tessera_kit.telemetry.propagation import new_span_context, traceparent_of
from tests.certificates import Authorities, made_authorities
from tests.helpers import Spans, eventually
from tests.kit_echo import SERVICE, Stub, binding, message

Echo = message("Echo")
UNARY = f"{SERVICE}/Unary"
TOKEN = "tsr_alice_secret"


class Recorder:
    """Keeps each call's metadata; fails the first `failures` calls."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.left: list[float | None] = []
        self.failures = failures
        self.error = error or Unavailable("not now")

    async def Unary(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(dict(context.invocation_metadata()))
        self.left.append(time_remaining())
        if len(self.calls) <= self.failures:
            raise self.error
        return request

    async def ServerStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.left.append(time_remaining())
        yield request


@asynccontextmanager
async def serving(recorder: Recorder, **settings: Any) -> AsyncIterator[RpcServer]:
    authority = InMemoryAuthority()
    authority.add_principal(Principal("alice"), TOKEN)
    config = RpcConfig(listen="127.0.0.1:0", **settings)
    server = build_server(config, [binding(recorder)], authenticator=authority)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_unavailable_is_tried_again() -> None:
    recorder = Recorder(failures=2)
    async with (
        serving(recorder) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        assert (await Stub(channel).unary(Echo(text="a"))).text == "a"
    assert len(recorder.calls) == 3
    assert recorder.calls[-1]["grpc-previous-rpc-attempts"] == "2"


@pytest.mark.parametrize(
    ("error", "attempts"), [(NotFound("no"), 1), (Unavailable("no"), 5)], ids=["final", "retried"]
)
async def test_attempts_end(error: Exception, attempts: int) -> None:
    recorder = Recorder(failures=100, error=error)
    async with (
        serving(recorder) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await Stub(channel).unary(Echo(text="a"))
    assert len(recorder.calls) == attempts


async def test_while_most_calls_fail_they_are_not_tried_again() -> None:
    recorder = Recorder(failures=10_000)
    async with (
        serving(recorder) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        stub = Stub(channel)
        calls = [stub.unary(Echo(text="a"), timeout=20) for _ in range(100)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, grpc.aio.AioRpcError) for result in results)
    # Without a budget these were 500; with it about as many retries as the bucket has tokens.
    assert 100 <= len(recorder.calls) < 200


@pytest.mark.parametrize("kind", ["ClientStream", "Bidirectional"])
async def test_a_stream_keeps_the_status_that_the_server_sent(kind: str) -> None:
    """Also where messages of ours meet a call that has ended, of which `grpc.aio` says INTERNAL."""

    async def refuse(requests: Any, context: Any) -> Any:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED, "who are you?", (("tessera-hint", "log in"),)
        )

    server = grpc.aio.server()
    handlers = {
        "ClientStream": grpc.stream_unary_rpc_method_handler(refuse),
        "Bidirectional": grpc.stream_stream_rpc_method_handler(refuse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}", retry=False) as channel:
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Stub(channel).call(kind, [Echo(text="a")] * 10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert caught.value.details() == "who are you?"
            assert ("tessera-hint", "log in") in tuple(caught.value.trailing_metadata() or ())
    await server.stop(0)


async def test_calls_carry_token_and_trace() -> None:
    recorder = Recorder()
    context = new_span_context(sampled=False)
    async with (
        serving(recorder) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        with trace.use_span(NonRecordingSpan(context)):
            await Stub(channel).unary(Echo(text="a"), metadata=(("extra", "1"),))
        await Stub(channel).unary(Echo(text="a"))
    first, second = recorder.calls
    assert first["authorization"] == f"Bearer {TOKEN}"
    assert first["traceparent"] == traceparent_of(context)
    assert first["extra"] == "1"
    assert "traceparent" not in second


async def test_default_deadline_is_for_single_responses_only() -> None:
    recorder = Recorder()
    async with (
        serving(recorder, stream_deadline_seconds=1000) as server,
        open_channel(server.address, token=Secret(TOKEN), timeout=7) as channel,
    ):
        stub = Stub(channel)
        await stub.unary(Echo(text="a"))
        await stub.unary(Echo(text="a"), timeout=20)
        async for _ in stub.server_stream(Echo(text="a")):
            pass
    single, own, stream = recorder.left
    assert single is not None and 0 < single < 8
    assert own is not None and 8 < own < 21
    assert stream is not None and stream > 900


async def test_a_call_does_not_outlast_the_call_that_it_serves() -> None:
    recorder = Recorder()
    async with (
        serving(recorder) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        deadline.enter_call(3.0)
        await Stub(channel).unary(Echo(text="a"), timeout=20)
    (left,) = recorder.left
    assert left is not None and left < 3.2


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    kept = Spans()
    monkeypatch.setattr(calls, "_tracer", kept.tracer)
    return kept


async def test_a_call_in_a_recorded_trace_has_a_span(spans: Spans) -> None:
    recorder, context = Recorder(failures=1, error=NotFound("no")), new_span_context(sampled=True)
    async with (
        serving(recorder) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        stub = Stub(channel)
        with trace.use_span(NonRecordingSpan(context)):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.unary(Echo(text="a"))
            await stub.unary(Echo(text="a"))
            async for _ in stub.server_stream(Echo(text="a")):
                pass
        ended = await eventually(lambda: spans.finished(3))
    failed, answered, streamed = ended
    for span in ended:
        assert (span.kind, span.context.trace_id) == (SpanKind.CLIENT, context.trace_id)
        assert span.parent is not None and span.parent.span_id == context.span_id
        assert span.attributes is not None
    assert failed.attributes is not None and answered.attributes is not None
    assert failed.attributes[names.RPC_STATUS] == "NOT_FOUND"
    assert (failed.status.is_ok, answered.status.is_ok) == (False, True)
    assert answered.attributes[names.RPC_STATUS] == "OK"
    assert answered.name == answered.attributes[names.RPC_METHOD] == UNARY
    assert streamed.name == UNARY.replace("Unary", "ServerStream")
    # The server's side is inside the client's.
    assert [call["traceparent"] for call in recorder.calls] == [
        traceparent_of(span.context) for span in (failed, answered)
    ]


async def test_calls_are_counted_and_unrecorded_ones_have_no_span(spans: Spans) -> None:
    def counted(code: str) -> float:
        labels = {"rpc_method": UNARY, "rpc_response_status_code": code}
        sample = f"{names.RPC_CLIENT_DURATION.prometheus_name}_count"
        return process_metrics().registry.get_sample_value(sample, labels) or 0.0

    before = counted("OK"), counted("NOT_FOUND")
    async with (
        serving(Recorder(1, NotFound("no"))) as server,
        open_channel(server.address, token=Secret(TOKEN)) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await Stub(channel).unary(Echo(text="a"))
        with trace.use_span(NonRecordingSpan(new_span_context(sampled=False))):
            await Stub(channel).unary(Echo(text="a"))

    async def both() -> bool:
        return (counted("OK"), counted("NOT_FOUND")) == (before[0] + 1, before[1] + 1)

    await eventually(both)
    assert spans.ended() == {}


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return made_authorities(tmp_path_factory)


async def call(server: RpcServer, tls: ClientTls | None) -> str:
    async with open_channel(server.address, token=Secret(TOKEN), tls=tls, retry=False) as channel:
        return str((await Stub(channel).unary(Echo(text="a"), timeout=5)).text)


async def test_tls(authorities: Authorities) -> None:
    settings = {
        "tls_cert_file": authorities.cert("server"),
        "tls_key_file": authorities.key("server"),
    }
    async with serving(Recorder(), **settings) as server:
        assert await call(server, ClientTls(ca_file=authorities.cert("ca"))) == "a"
        for wrong in (ClientTls(ca_file=authorities.cert("stranger")), None):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(server, wrong)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        named = ClientTls(ca_file=authorities.cert("ca"), server_name="elsewhere")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(server, named)


async def test_mtls(authorities: Authorities) -> None:
    settings = {
        "tls_cert_file": authorities.cert("server"),
        "tls_key_file": authorities.key("server"),
        "tls_client_ca_file": authorities.cert("ca"),
    }
    ca = authorities.cert("ca")
    async with serving(Recorder(), **settings) as server:
        known = ClientTls(ca, authorities.cert("client"), authorities.key("client"))
        assert await call(server, known) == "a"
        stranger = ClientTls(ca, authorities.cert("stranger"), authorities.key("stranger"))
        for wrong in (ClientTls(ca), stranger):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(server, wrong)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        open_channel("127.0.0.1:1", tls=ClientTls(ca_file=tmp_path / "missing.pem"))


def test_client_tls_from_the_environment() -> None:
    assert ClientTls.from_env({}) is None
    tls = ClientTls.from_env({"TESSERA_TLS_CA_FILE": "/ca", "TESSERA_TLS_CERT_FILE": "/c"})
    assert tls == ClientTls(ca_file=Path("/ca"), cert_file=Path("/c"))
