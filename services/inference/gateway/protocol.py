"""The Open Inference Protocol's gRPC service on the gateway, for unmodified clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2

from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.signature import Role, TensorSpec
from services.inference.errors import EndpointNotFound, EndpointNotReady
from services.inference.gateway.infer import InferenceHandler
from services.inference.gateway.routing import Route, RouteTable
from services.inference.gateway.streams import StreamHandler
from services.inference.runtime.bundle import MAX_BATCH_ROWS
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import Internal, TesseraError
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import bearer_token
from tessera_kit.rpc.status import code_of, status_of, trailing_metadata_of

__all__ = ["SERVICE_NAME", "InferenceProtocol"]

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_log = logging.getLogger(__name__)

SERVICE_NAME: Final = "inference.GRPCInferenceService"
_SERVER_NAME: Final = "tessera"
_EXECUTE: Final = securable_pb2.PRIVILEGE_EXECUTE
_ENDPOINT: Final = securable_pb2.SECURABLE_TYPE_ENDPOINT


class InferenceProtocol(grpc.GenericRpcHandler):
    """Finds the method of a call.

    ServerLive, ServerReady and ServerMetadata are open, as health is; the others need a token with
    EXECUTE on the endpoint.

    Args:
        routes: The endpoints that answer.
        authority: Tells callers apart and what they may do.
        infer: Answers ModelInfer.
        streams: Answers ModelStreamInfer.
        version: The platform's version.
    """

    def __init__(
        self,
        routes: RouteTable,
        authority: Authority,
        infer: InferenceHandler,
        streams: StreamHandler,
        version: str,
    ) -> None:
        self._routes = routes
        self._authority = authority
        self._version = version
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
        }

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The method of a call; None when it is not offered."""
        return self._methods.get(details.method)

    async def _server_live(self, _: Any, __: Context) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Any, __: Context) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    async def _server_metadata(self, _: Any, __: Context) -> Any:
        return service_pb2.ServerMetadataResponse(name=_SERVER_NAME, version=self._version)

    async def _model_ready(self, request: Any, context: Context) -> Any:
        try:
            await self._route(request.name, request.version, context)
        except (EndpointNotFound, EndpointNotReady):
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        route = await self._route(request.name, request.version, context)
        return service_pb2.ModelMetadataResponse(
            name=route.endpoint.name,
            versions=sorted({str(served.model_version) for served in route.entities}),
            platform=_SERVER_NAME,
            inputs=[_tensor(spec) for spec in route.signature.inputs],
            outputs=[_tensor(spec) for spec in route.signature.outputs],
        )

    async def _model_config(self, request: Any, context: Context) -> Any:
        """What a client must know to ask: names, datatypes, shapes, and whether rows gather."""
        route = await self._route(request.name, request.version, context)
        signature = route.signature
        config = model_config_pb2.ModelConfig(
            name=route.endpoint.name,
            platform=_SERVER_NAME,
            max_batch_size=MAX_BATCH_ROWS if signature.batched else 0,
        )
        config.model_transaction_policy.decoupled = signature.streams
        first = 1 if signature.batched else 0
        for spec in signature.inputs:
            config.input.add(
                name=spec.name,
                data_type=DATATYPES[spec.datatype].triton,
                dims=spec.shape[first:],
                optional=spec.role is Role.METADATA,
            )
        for spec in signature.outputs:
            config.output.add(
                name=spec.name, data_type=DATATYPES[spec.datatype].triton, dims=spec.shape[first:]
            )
        return service_pb2.ModelConfigResponse(config=config)

    async def _model_statistics(self, request: Any, context: Context) -> Any:
        """Counts of an endpoint's entities since the gateway has them, as it sees them."""
        route = await self._route(request.name, request.version, context)
        response = service_pb2.ModelStatisticsResponse()
        for served in route.entities:
            if request.version not in ("", str(served.model_version)):
                continue
            found = response.model_stats.add(
                name=route.endpoint.name,
                version=str(served.model_version),
                inference_count=served.answered,
                execution_count=served.answered,
            )
            found.inference_stats.success.count = served.answered
            found.inference_stats.success.ns = served.answered_ns
            found.inference_stats.fail.count = served.failed
            found.inference_stats.fail.ns = served.failed_ns
        return response

    async def _route(self, name: str, version: str, context: Context) -> Route:
        metadata = context.invocation_metadata() or ()
        principal = await self._authority.authenticate(bearer_token(metadata))
        route = self._routes.find(name)
        await self._authority.require(principal, _EXECUTE, _ENDPOINT, name)
        if version:
            route.choose(version)
        return route


def _tensor(spec: TensorSpec) -> Any:
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )


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
