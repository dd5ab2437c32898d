"""Streamed answers of Triton: one stream of its own for each request, so that each ends alone.

They come over `grpc.aio`, whose flow control stops Triton's writes while nobody reads: a model
that streams is slow enough for what that costs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.errors import runtime_error
from services.inference.errors import ModelFailed
from tessera_kit.errors import TesseraError

__all__ = ["TritonStreams"]

_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_ERRORS_AS_STATUS: Final = (("triton_grpc_error", "true"),)
"""Triton ends the stream with the code of a failure, instead of a text without one."""
_AHEAD: Final = 1 << 20
"""Bytes of one stream that Triton may send before they are read."""


class TritonStreams:
    """See `ports.Runtime.stream`. It connects when it is first used and again after a loss.

    Args:
        target: `host:port` of Triton's gRPC door.
        dead: Told of models that died.
        max_message_bytes: Largest response.
    """

    def __init__(self, target: str, dead: DeadModels, *, max_message_bytes: int) -> None:
        self._target = target
        self._dead = dead
        self._options = (
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _AHEAD),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),
        )
        self._channel: grpc.aio.Channel | None = None

    async def stream(self, request: bytes, timeout: float) -> AsyncGenerator[bytes]:
        """Send a serialised request and return its serialised responses."""
        call: Any = self._method()(timeout=timeout, metadata=_ERRORS_AS_STATUS)
        try:
            await call.write(request)
            await call.done_writing()
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.error_message:
                    raise self._error(grpc.StatusCode.INTERNAL, response.error_message)
                yield response.infer_response.SerializeToString()
            code = await call.code()
            if code is not grpc.StatusCode.OK:
                raise self._error(code, await call.details() or "")
        except grpc.aio.AioRpcError as error:
            raise self._error(error.code(), error.details() or "") from None
        except grpc.aio.UsageError:
            # The call ended before all of the request was written.
            code, details = await call.code(), await call.details() or ""
            if code is grpc.StatusCode.OK:
                raise ModelFailed("the model failed: it took no request") from None
            raise self._error(code, details) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection; running calls fail."""
        if self._channel is not None:
            await self._channel.close(None)

    def _error(self, code: grpc.StatusCode, details: str) -> TesseraError:
        self._dead.note(details)
        return runtime_error(code, details)

    def _method(self) -> Any:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
        return self._channel.stream_stream(
            _METHOD, response_deserializer=service_pb2.ModelStreamInferResponse.FromString
        )
