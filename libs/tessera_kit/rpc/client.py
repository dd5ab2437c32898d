"""Channels to Tessera services: token, trace context, default deadline and budgeted retries.

The retries are gRPC's own (service config): jittered exponential backoff on UNAVAILABLE, and a
token bucket per channel that stops them while most calls fail. The rest, spans and durations too,
is added per call without interceptors, which in grpc.aio cost a task for each call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc

from tessera_kit.config import Secret
from tessera_kit.rpc.deadline import time_remaining
from tessera_kit.rpc.streamed import StreamedCall, told_at_once
from tessera_kit.rpc.tls import ClientTls
from tessera_kit.telemetry.calls import ClientMethod

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "open_channel"]

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
"""Deadline of a call with one response that sets none itself."""

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"

_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2.5,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 50, "tokenRatio": 0.2},
}


def open_channel(
    target: str,
    *,
    token: Secret | None = None,
    tls: ClientTls | None = None,
    max_message_bytes: int = 64 * 1024 * 1024,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    retry: bool = True,
) -> grpc.aio.Channel:
    """Return a channel; it connects when it is first used. Close it, or use it in `async with`.

    Every call sends the token and the current trace context, is counted with its duration, and has
    a span where the current trace is recorded. A call with one response ends after
    `timeout` unless it sets a deadline of its own; a call made while serving another one never
    outlasts that one, whatever it sets. A call that fails with UNAVAILABLE is sent again, up to
    four times, as long as it has received nothing.

    Args:
        target: gRPC target, as `127.0.0.1:50051`.
        token: Sent as `authorization: Bearer ...`.
        tls: How to check the server; plain text when None.
        max_message_bytes: Greatest size of one message, both ways.
        timeout: Seconds.
        retry: Whether to send failed calls again.

    Raises:
        ConfigError: A TLS file cannot be read.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A restarted service should be found again soon.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", int(retry)),
    ]
    if retry:
        options.append(("grpc.service_config", json.dumps(_SERVICE_CONFIG)))
    if tls is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        if tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        channel = grpc.aio.secure_channel(target, tls.credentials(), options=options)
    credentials: Metadata = ()
    if token is not None:
        credentials = (("authorization", f"Bearer {token.reveal()}"),)
    return _Channel(channel, credentials, timeout)


class _Channel(grpc.aio.Channel):
    """A channel whose calls carry more than their caller gave."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata, timeout: float) -> None:
        self._channel = channel
        self._metadata = tuple(metadata)
        self._timeout = timeout

    def __repr__(self) -> str:
        return "<Tessera channel>"

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        call = self._channel.unary_unary(method, *arguments, **named)
        return self._wrapped(method, call, self._timeout)

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        call = self._channel.stream_unary(method, *arguments, **named)
        return self._wrapped(method, call, self._timeout, StreamedCall)

    def unary_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        call = self._channel.unary_stream(method, *arguments, **named)
        return self._wrapped(method, call, None)

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        call = self._channel.stream_stream(method, *arguments, **named)
        return self._wrapped(method, call, None, StreamedCall)

    def _wrapped(
        self,
        method: str,
        call: Callable[..., Any],
        default: float | None,
        wrap: Callable[[Any], Any] | None = None,
    ) -> Callable[..., Any]:
        common = self._metadata
        calls = ClientMethod(method.lstrip("/"))

        def start(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Metadata | None = None,
            **named: Any,
        ) -> Any:
            limit = default if timeout is None else timeout
            left = time_remaining()
            if left is not None and (limit is None or left < limit):
                limit = left
            sent = common if not metadata else (*common, *metadata)
            began, traceparent = calls.begin()
            if traceparent is not None:
                sent = (*sent, ("traceparent", traceparent))
            started = call(request, timeout=limit, metadata=sent, **named)
            started.add_done_callback(lambda ended: calls.end(began, _code_of(ended)))
            return started if wrap is None else wrap(started)

        return start


def _code_of(call: grpc.aio.Call) -> str:
    """The name of an ended call's status."""
    code = told_at_once(call.code())
    return str((code or grpc.StatusCode.UNKNOWN).name)
