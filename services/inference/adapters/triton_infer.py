"""The hot path to Triton: raw bytes over a few gRPC channels."""

from __future__ import annotations

from itertools import cycle
from typing import Any, Final

import grpc

from services.inference.errors import (
    InferenceTimeout,
    InvalidInference,
    ModelFailed,
    RuntimeUnavailable,
    TooManyInferences,
)
from tessera_kit.errors import TesseraError

__all__ = ["TritonRuntime", "runtime_error"]

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_RETRY_SECONDS: Final = 0.5
_LOST: Final = ("unknown model", "Stub process")
"""What Triton says of a model that is not loaded, or whose process died."""


class TritonRuntime:
    """Asks Triton; see `ports.Runtime`.

    Args:
        target: `host:port` of its gRPC door.
        channels: Connections; one carries about 100 requests at once.
        max_message_bytes: Largest request and response.
    """

    def __init__(self, target: str, *, channels: int = 2, max_message_bytes: int) -> None:
        options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # A restarted runtime must be found again within a blink.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            # Channels with equal arguments would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        ]
        self._channels = [grpc.aio.insecure_channel(target, options) for _ in range(channels)]
        calls: list[Any] = [channel.unary_unary(_METHOD) for channel in self._channels]
        self._next = cycle(calls).__next__

    async def infer(self, request: bytes, timeout: float | None) -> bytes:
        """Send a serialised request and return the serialised response."""
        try:
            response: bytes = await self._next()(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise runtime_error(error.code(), error.details() or "") from None
        return response

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()


def runtime_error(code: grpc.StatusCode, details: str) -> TesseraError:
    """What a failed call of Triton means for the caller, without the runtime's own names."""
    unavailable = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}
    if code in unavailable or any(words in details for words in _LOST):
        return RuntimeUnavailable(
            "the model is not loaded now; it is being loaded again", retry_after=_RETRY_SECONDS
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return InferenceTimeout("the deadline passed before the model answered")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TooManyInferences("the model runtime is full", retry_after=_RETRY_SECONDS)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInference("the model runtime refused the request's tensors")
    if "the model failed:" in details:
        return ModelFailed(details[details.index("the model failed:") :][:1024])
    return ModelFailed("the model failed")
