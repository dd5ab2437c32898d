"""The Open Inference Protocol's gRPC service on the gateway, for unmodified clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
from tritonclient.grpc import service_pb2

from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.infer import InferenceHandler
from services.inference.gateway.streams import StreamHandler
from tessera_kit.errors import Internal, TesseraError
from tessera_kit.rpc.identity import bearer_token
from tessera_kit.rpc.status import code_of, status_of, trailing_metadata_of

__all__ = ["SERVICE_NAME", "InferenceProtocol"]

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_log = logging.getLogger(__name__)

SERVICE_NAME: Final = "inference.GRPCInferenceService"


class InferenceProtocol(grpc.GenericRpcHandler):
    """Finds the method of a call.

    ServerLive, ServerReady and ServerMetadata are open, as health is; the others need a token.

    Args:
        descriptions: Tells of the endpoints.
        infer: Answers ModelInfer.
        streams: Answers ModelStreamInfer.
    """

    def __init__(
        self, descriptions: Descriptions, infer: InferenceHandler, streams: StreamHandler
    ) -> None:
        self._descriptions = descriptions
        messages = service_pb2
        self._methods: dict[str, Handler] = {
            f"/{SERVICE_NAME}/ModelInfer": grpc.unary_unary_rpc_method_handler(infer.infer),
            f"/{SERVICE_NAME}/ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                streams.stream
            ),
            **_method("ServerLive", self._server_live, messages.ServerLiveRequest),
            **_method("ServerReady", self._server_ready, messages.ServerReadyRequest),
            **_method("ServerMetadata", self._server_metadata, messages.ServerMetadataRequest),
            **_method("ModelReady", self._model_ready, messages.ModelReadyRequest),
            **_method("ModelMetadata", self._model_metadata, messages.ModelMetadataRequest),
            **_method("ModelConfig", self._model_config, messages.ModelConfigRequest),
            **_method("ModelStatistics", self._model_statistics, messages.ModelStatisticsRequest),
            **_method("RepositoryIndex", self._repository_index, messages.RepositoryIndexRequest),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The method of a call; None when it is not offered."""
        return self._methods.get(details.method)

    async def _server_live(self, _: Any, __: Context) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Any, __: Context) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    async def _server_metadata(self, _: Any, __: Context) -> Any:
        return self._descriptions.server()

    async def _model_ready(self, request: Any, context: Context) -> Any:
        ready = await self._descriptions.is_ready(request.name, request.version, _token(context))
        return service_pb2.ModelReadyResponse(ready=ready)

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        return await self._descriptions.metadata(request.name, request.version, _token(context))

    async def _model_config(self, request: Any, context: Context) -> Any:
        return await self._descriptions.config(request.name, request.version, _token(context))

    async def _model_statistics(self, request: Any, context: Context) -> Any:
        return await self._descriptions.statistics(request.name, request.version, _token(context))

    async def _repository_index(self, request: Any, context: Context) -> Any:
        return await self._descriptions.index(_token(context), only_ready=request.ready)


def _token(context: Context) -> str:
    return bearer_token(context.invocation_metadata() or ())


def _method(
    name: str, behaviour: Callable[[Any, Context], Awaitable[Any]], request: Any
) -> dict[str, Handler]:
    async def answer(message: Any, context: Context) -> Any:
        try:
            return await behaviour(message, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            failure = error
        if not isinstance(failure, TesseraError):
            _log.error("%s failed", name, exc_info=failure)
            failure = Internal(repr(failure))
        status = status_of(failure)
        context.set_trailing_metadata((trailing_metadata_of(status),))
        await context.abort(code_of(type(failure)), status.message)

    handler: Handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    return {f"/{SERVICE_NAME}/{name}": handler}
