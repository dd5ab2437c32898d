"""What the protocol's doors tell of endpoints: to those who may query them."""

from __future__ import annotations

from typing import Any, Final

from tritonclient.grpc import model_config_pb2, service_pb2

from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.signature import Role, TensorSpec
from services.inference.errors import EndpointNotFound, EndpointNotReady
from services.inference.gateway.access import may_query, require_query
from services.inference.gateway.routing import Route, RouteTable
from tessera_kit.rpc.authority import Authority

__all__ = ["Descriptions"]

_SERVER_NAME: Final = "tessera"
_EXTENSIONS: Final = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "statistics",
)


class Descriptions:
    """Answers questions about endpoints with the protocol's messages.

    All but `server` need a token, and raise Unauthenticated without a good one, PermissionDenied
    without EXECUTE on an endpoint that the caller may see, EndpointNotFound and EndpointNotReady.

    Args:
        routes: The endpoints that answer.
        authority: Tells callers apart and what they may do.
        version: The platform's version.
    """

    def __init__(self, routes: RouteTable, authority: Authority, version: str) -> None:
        self._routes = routes
        self._authority = authority
        self._version = version

    def server(self) -> Any:
        """The server's metadata; open to everybody."""
        return service_pb2.ServerMetadataResponse(
            name=_SERVER_NAME, version=self._version, extensions=_EXTENSIONS
        )

    async def is_ready(self, name: str, version: str, token: str) -> bool:
        """Whether an endpoint answers, and serves a version where one is named."""
        try:
            await self._route(name, version, token)
        except (EndpointNotFound, EndpointNotReady):
            return False
        return True

    async def metadata(self, name: str, version: str, token: str) -> Any:
        """An endpoint's versions, inputs and outputs."""
        route = await self._route(name, version, token)
        return service_pb2.ModelMetadataResponse(
            name=route.endpoint.name,
            versions=sorted({str(served.model_version) for served in route.entities}),
            platform=_SERVER_NAME,
            inputs=[_tensor(spec) for spec in route.signature.inputs],
            outputs=[_tensor(spec) for spec in route.signature.outputs],
        )

    async def config(self, name: str, version: str, token: str) -> Any:
        """What a client must know to ask: names, datatypes, shapes, and whether rows gather."""
        route = await self._route(name, version, token)
        signature = route.signature
        config = model_config_pb2.ModelConfig(
            name=route.endpoint.name,
            platform=_SERVER_NAME,
            max_batch_size=route.max_rows if signature.batched else 0,
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

    async def statistics(self, name: str, version: str, token: str) -> Any:
        """Counts of an endpoint's entities since the gateway has them, as it sees them.

        Without a name those of every endpoint that the caller may query.
        """
        response = service_pb2.ModelStatisticsResponse()
        routes = [await self._route(name, version, token)] if name else await self._all(token)
        for route in routes:
            _add_statistics(response, route, version)
        return response

    async def index(self, token: str, *, only_ready: bool = False) -> Any:
        """The endpoints that the caller may query, one entry per served version."""
        response = service_pb2.RepositoryIndexResponse()
        for route in await self._all(token):
            for version in sorted({served.model_version for served in route.entities}):
                response.models.add(name=route.endpoint.name, version=str(version), state="READY")
        if not only_ready:
            for name in await self._allowed(token, self._routes.starting):
                response.models.add(name=name, state="LOADING", reason="not ready yet")
        return response

    async def _all(self, token: str) -> list[Route]:
        routes = dict(self._routes.routes)
        return [routes[name] for name in await self._allowed(token, routes)]

    async def _allowed(self, token: str, names: Any) -> list[str]:
        principal = await self._authority.authenticate(token)
        return [name for name in sorted(names) if await may_query(self._authority, principal, name)]

    async def _route(self, name: str, version: str, token: str) -> Route:
        principal = await self._authority.authenticate(token)
        await require_query(self._authority, principal, name)
        route = self._routes.find(name)
        if version:
            route.choose(version)
        return route


def _add_statistics(response: Any, route: Route, version: str) -> None:
    for served in route.entities:
        if version not in ("", str(served.model_version)):
            continue
        found = response.model_stats.add(
            name=route.endpoint.name,
            version=str(served.model_version),
            inference_count=served.answered,
            execution_count=served.answered,
        )
        found.inference_stats.success.count = served.answered
        found.inference_stats.success.ns = served.answered_ns
        # Clients that measure by statistics (perf_analyzer) want all of these counts to agree. The
        # gateway sees one time, from its question to the runtime's answer: the model's.
        for part in ("queue", "compute_input", "compute_infer", "compute_output"):
            getattr(found.inference_stats, part).count = served.answered
        found.inference_stats.compute_infer.ns = served.answered_ns
        found.inference_stats.fail.count = served.failed
        found.inference_stats.fail.ns = served.failed_ns


def _tensor(spec: TensorSpec) -> Any:
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
