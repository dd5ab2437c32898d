"""`tessera.inference.v1.InferenceService`: messages to values, a handler, values to messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from services.inference.convert.canary import canary_plan
from services.inference.convert.endpoints import (
    config_message,
    endpoint_fields,
    endpoint_message,
    endpoint_settings,
    entity_requests,
    optional_time,
    statistics_message,
    traffic_policy,
    with_states,
)
from services.inference.convert.explanations import explanation_message
from services.inference.domain.bodies import Side
from services.inference.domain.endpoint import Endpoint
from services.inference.handlers.cases import UseCases
from services.inference.handlers.endpoints import NewEndpoint
from tessera.inference.v1 import endpoint_pb2
from tessera.inference.v1 import inference_service_pb2 as pb
from tessera.inference.v1 import inference_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal
from tessera_kit.rpc.pages import decode_page_token, encode_page_token, page_size
from tessera_kit.rpc.server import Binding

__all__ = ["InferenceServicer", "bindings"]

_PAGE_SCOPE: Final = "inference.endpoints"
_CONFIG_SCOPE: Final = "inference.configs"
_SIDES: Final = {pb.PAYLOAD_SIDE_REQUEST: Side.REQUEST, pb.PAYLOAD_SIDE_RESPONSE: Side.RESPONSE}
_JSON: Final = pb.BODY_ENCODING_JSON
_MESSAGE: Final = pb.BODY_ENCODING_OIP_V2_PROTOBUF


def bindings(cases: UseCases) -> tuple[Binding, ...]:
    """The service, with its servicer."""
    name = "tessera.inference.v1.InferenceService"
    return (Binding(rpc.add_InferenceServiceServicer_to_server, InferenceServicer(cases), name),)


class InferenceServicer(rpc.InferenceServiceServicer):
    """Translates between the contract and the handlers.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._handlers = cases.endpoints
        self._canaries = cases.canaries
        self._elastic = cases.elastic
        self._payloads = cases.payloads
        self._explanations = cases.explanations

    async def CreateEndpoint(
        self, request: pb.CreateEndpointRequest, context: Any
    ) -> pb.CreateEndpointResponse:
        """Create an endpoint."""
        new = NewEndpoint(
            name=request.name,
            entities=entity_requests(request.config),
            schema=request.inference_table.schema_full_name,
            table_prefix=request.inference_table.table_name_prefix,
            comment=request.comment,
            settings=endpoint_settings(request),
            traffic=traffic_policy(request.config.traffic),
        )
        endpoint = await self._handlers.create(current_principal(), new, request.request_id)
        return pb.CreateEndpointResponse(endpoint=self._told(endpoint))

    async def GetEndpoint(
        self, request: pb.GetEndpointRequest, context: Any
    ) -> pb.GetEndpointResponse:
        """Read an endpoint."""
        endpoint = await self._handlers.get(current_principal(), request.name)
        return pb.GetEndpointResponse(endpoint=self._told(endpoint))

    async def ListEndpoints(
        self, request: pb.ListEndpointsRequest, context: Any
    ) -> pb.ListEndpointsResponse:
        """List endpoints, by name."""
        after = ""
        if request.page_token:
            after = str(decode_page_token(request.page_token, _PAGE_SCOPE)["after"])
        found, following = await self._handlers.page(
            current_principal(), after, page_size(request.page_size)
        )
        token = encode_page_token({"after": following}, _PAGE_SCOPE) if following else ""
        return pb.ListEndpointsResponse(
            endpoints=[self._told(endpoint) for endpoint in found], next_page_token=token
        )

    async def UpdateEndpointConfig(
        self, request: pb.UpdateEndpointConfigRequest, context: Any
    ) -> pb.UpdateEndpointConfigResponse:
        """Begin to change what an endpoint serves."""
        endpoint = await self._handlers.update_config(
            current_principal(),
            request.name,
            entity_requests(request.config),
            request.etag,
            traffic_policy(request.config.traffic),
        )
        return pb.UpdateEndpointConfigResponse(endpoint=self._told(endpoint))

    async def UpdateTraffic(
        self, request: pb.UpdateTrafficRequest, context: Any
    ) -> pb.UpdateTrafficResponse:
        """Change traffic shares."""
        endpoint = await self._handlers.update_traffic(
            current_principal(),
            request.name,
            dict(request.traffic_percent),
            request.etag,
            shadows=dict(request.shadow_percent),
            traffic=traffic_policy(request.traffic) if request.HasField("traffic") else None,
        )
        return pb.UpdateTrafficResponse(endpoint=self._told(endpoint))

    async def UpdateEndpoint(
        self, request: pb.UpdateEndpointRequest, context: Any
    ) -> pb.UpdateEndpointResponse:
        """Change what is said about an endpoint."""
        told = request.endpoint
        endpoint = await self._handlers.update(
            current_principal(),
            told.name,
            told.comment,
            endpoint_settings(told),
            endpoint_fields(request.update_mask),
            told.etag,
        )
        return pb.UpdateEndpointResponse(endpoint=self._told(endpoint))

    async def CancelEndpointUpdate(
        self, request: pb.CancelEndpointUpdateRequest, context: Any
    ) -> pb.CancelEndpointUpdateResponse:
        """Give up a pending configuration."""
        endpoint = await self._handlers.cancel(current_principal(), request.name, request.etag)
        return pb.CancelEndpointUpdateResponse(endpoint=self._told(endpoint))

    async def RollbackEndpoint(
        self, request: pb.RollbackEndpointRequest, context: Any
    ) -> pb.RollbackEndpointResponse:
        """Begin to serve what an earlier configuration served."""
        endpoint = await self._handlers.rollback(
            current_principal(), request.name, request.config_version, request.etag
        )
        return pb.RollbackEndpointResponse(endpoint=self._told(endpoint))

    async def ListEndpointConfigs(
        self, request: pb.ListEndpointConfigsRequest, context: Any
    ) -> pb.ListEndpointConfigsResponse:
        """List configurations, newest first."""
        below = None
        scope = f"{_CONFIG_SCOPE}/{request.name}"
        if request.page_token:
            below = int(decode_page_token(request.page_token, scope)["below"])
        found, following = await self._handlers.configs(
            current_principal(), request.name, below, page_size(request.page_size)
        )
        token = encode_page_token({"below": following}, scope) if following else ""
        return pb.ListEndpointConfigsResponse(
            configs=[config_message(config) for config in found], next_page_token=token
        )

    async def StartCanary(
        self, request: pb.StartCanaryRequest, context: Any
    ) -> pb.StartCanaryResponse:
        """Begin a canary."""
        endpoint = await self._canaries.start(
            current_principal(), request.name, canary_plan(request.plan), request.etag
        )
        return pb.StartCanaryResponse(endpoint=self._told(endpoint))

    async def EndCanary(self, request: pb.EndCanaryRequest, context: Any) -> pb.EndCanaryResponse:
        """End a canary before its time."""
        endpoint = await self._canaries.end(
            current_principal(), request.name, request.promote, request.etag
        )
        return pb.EndCanaryResponse(endpoint=self._told(endpoint))

    async def WatchEndpoint(
        self, request: pb.WatchEndpointRequest, context: Any
    ) -> AsyncIterator[pb.WatchEndpointResponse]:
        """Stream an endpoint's state."""
        async for endpoint in self._handlers.watch(current_principal(), request.name):
            yield pb.WatchEndpointResponse(endpoint=self._told(endpoint))

    async def DeleteEndpoint(
        self, request: pb.DeleteEndpointRequest, context: Any
    ) -> pb.DeleteEndpointResponse:
        """Delete an endpoint."""
        await self._handlers.delete(current_principal(), request.name, request.etag)
        return pb.DeleteEndpointResponse()

    async def GetInferenceTableStatistics(
        self, request: pb.GetInferenceTableStatisticsRequest, context: Any
    ) -> pb.GetInferenceTableStatisticsResponse:
        """Count an inference table."""
        counts = await self._handlers.statistics(
            current_principal(), request.name, optional_time(request.since)
        )
        return statistics_message(counts)

    async def ExplainRequest(
        self, request: pb.ExplainRequestRequest, context: Any
    ) -> pb.ExplainRequestResponse:
        """Tell what produced an answer."""
        explanation = await self._explanations.explain(
            current_principal(), request.request_id, request.client_request_id, request.endpoint
        )
        return pb.ExplainRequestResponse(explanation=explanation_message(explanation))

    async def ReadPayloadBody(
        self, request: pb.ReadPayloadBodyRequest, context: Any
    ) -> AsyncIterator[pb.ReadPayloadBodyResponse]:
        """Read the body of a request or of its response."""
        body = await self._payloads.body(
            current_principal(),
            request.table_full_name,
            request.request_id,
            _SIDES[request.side],
        )
        encoding = _JSON if body.is_json else _MESSAGE
        yield pb.ReadPayloadBodyResponse(size_bytes=body.size, encoding=encoding)
        async for chunk in body.chunks:
            yield pb.ReadPayloadBodyResponse(chunk=chunk)

    def _told(self, endpoint: Endpoint) -> endpoint_pb2.Endpoint:
        return with_states(endpoint_message(endpoint), self._elastic.states(endpoint))
