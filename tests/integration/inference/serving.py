"""A platform with a model to serve: what a user does before the first prediction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import tritonclient.grpc.aio as triton

from devstack import Stack
from tessera.catalog.v1 import (
    authorization_service_pb2,
    authorization_service_pb2_grpc,
    catalog_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tessera.inference.v1 import (
    endpoint_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
)
from tessera_kit.config import Secret
from tessera_kit.rpc.client import open_channel
from tests.helpers import unique_name
from tests.integration.inference.models import exported, manifest

SERVICES = ("catalog", "inference", "inference-sink")


@dataclass
class Serving:
    """The doors of the platform, as an administrator."""

    stack: Stack
    token: str
    schema: str
    model: str
    catalog: grpc.aio.Channel
    inference: grpc.aio.Channel
    gateway: triton.InferenceServerClient

    @property
    def endpoints(self) -> Any:
        """`InferenceService`."""
        return inference_service_pb2_grpc.InferenceServiceStub(self.inference)

    @property
    def models(self) -> Any:
        """`ModelService`."""
        return model_service_pb2_grpc.ModelServiceStub(self.catalog)

    @property
    def authorization(self) -> Any:
        """`AuthorizationService`."""
        return authorization_service_pb2_grpc.AuthorizationServiceStub(self.catalog)

    @property
    def headers(self) -> dict[str, str]:
        """What tritonclient sends along."""
        return {"authorization": f"Bearer {self.token}"}

    async def add_version(self, content: bytes | None = None, **changes: Any) -> int:
        """Register a version of the model."""
        made = await self.models.CreateModelVersion(
            model_service_pb2.CreateModelVersionRequest(model_name=self.model)
        )
        number: int = made.model_version.version
        file = changes.get("file", "model.pt2")
        files = {"model.json": manifest(**changes), file: content or exported()}
        for path, data in files.items():
            await self.models.UploadModelFile(self._parts(number, path, data))
        await self.models.FinalizeModelVersion(
            model_service_pb2.FinalizeModelVersionRequest(model_name=self.model, version=number)
        )
        return number

    async def _parts(self, number: int, path: str, data: bytes) -> AsyncIterator[Any]:
        header = model_service_pb2.UploadModelFileHeader(
            model_name=self.model, version=number, path=path
        )
        yield model_service_pb2.UploadModelFileRequest(header=header)
        for start in range(0, len(data), 1 << 20):
            yield model_service_pb2.UploadModelFileRequest(chunk=data[start : start + (1 << 20)])

    async def create(self, versions: Sequence[int], shares: Sequence[int] = (100,)) -> str:
        """Create an endpoint and wait until it answers; returns its name."""
        name = unique_name("endpoint").replace("_", "-")
        await self.endpoints.CreateEndpoint(
            inference_service_pb2.CreateEndpointRequest(
                name=name,
                config=self.config(versions, shares),
                inference_table=endpoint_pb2.InferenceTableConfig(schema_full_name=self.schema),
            )
        )
        endpoint = await self.settled(name)
        assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY, endpoint.update_message
        return name

    def config(self, versions: Sequence[int], shares: Sequence[int]) -> Any:
        """A configuration of versions of the model."""
        return endpoint_pb2.EndpointConfig(
            served_entities=[
                endpoint_pb2.ServedEntity(
                    model_name=self.model, model_version=version, traffic_percent=share
                )
                for version, share in zip(versions, shares, strict=True)
            ]
        )

    async def settled(self, name: str) -> Any:
        """The endpoint once no change is under way."""
        request = inference_service_pb2.WatchEndpointRequest(name=name)
        async for response in self.endpoints.WatchEndpoint(request, timeout=300):
            endpoint = response.endpoint
            if endpoint.update_state != endpoint_pb2.UPDATE_STATE_IN_PROGRESS:
                return endpoint
        raise AssertionError("the watch ended")

    async def statistics(self, name: str) -> Any:
        """The counts of the endpoint's table."""
        return await self.endpoints.GetInferenceTableStatistics(
            inference_service_pb2.GetInferenceTableStatisticsRequest(name=name)
        )

    async def add_user(self, name: str) -> str:
        """Make a user; returns a token."""
        await self.authorization.CreatePrincipal(
            authorization_service_pb2.CreatePrincipalRequest(
                principal=authorization_service_pb2.Principal(
                    name=name, kind=authorization_service_pb2.PRINCIPAL_KIND_USER
                )
            )
        )
        made = await self.authorization.CreateToken(
            authorization_service_pb2.CreateTokenRequest(principal=name)
        )
        secret: str = made.secret
        return secret

    async def delete_endpoints(self) -> None:
        """Delete every endpoint whose table is in this platform's schema."""
        listed = await self.endpoints.ListEndpoints(
            inference_service_pb2.ListEndpointsRequest(page_size=1000), wait_for_ready=True
        )
        for endpoint in listed.endpoints:
            if endpoint.inference_table.schema_full_name == self.schema:
                await self.endpoints.DeleteEndpoint(
                    inference_service_pb2.DeleteEndpointRequest(name=endpoint.name)
                )

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(self.catalog.close(), self.inference.close(), self.gateway.close())


async def open_serving(stack: Stack) -> Serving:
    """Start what is missing, and register a model without versions."""
    if stack.is_local:
        running = {process.name for process in stack.state().processes}
        await stack.start(*(name for name in SERVICES if name not in running))
    environment = stack.environment
    token = _read(environment["TESSERA_ADMIN_TOKEN_FILE"])
    catalog = open_channel(environment["TESSERA_CATALOG_TARGET"], token=Secret(token))
    inference = open_channel(environment["TESSERA_INFERENCE_TARGET"], token=Secret(token))
    name = unique_name("serving")
    stub: Any = catalog_service_pb2_grpc.CatalogServiceStub(catalog)
    await stub.CreateCatalog(
        catalog_service_pb2.CreateCatalogRequest(catalog=catalog_pb2.Catalog(name=name))
    )
    schema = f"{name}.models"
    await stub.CreateSchema(
        catalog_service_pb2.CreateSchemaRequest(schema=catalog_pb2.Schema(full_name=schema))
    )
    serving = Serving(
        stack=stack,
        token=token,
        schema=schema,
        model=f"{schema}.delay",
        catalog=catalog,
        inference=inference,
        gateway=triton.InferenceServerClient(environment["TESSERA_GATEWAY_TARGET"]),
    )
    await serving.models.CreateRegisteredModel(
        model_service_pb2.CreateRegisteredModelRequest(
            registered_model=model_pb2.RegisteredModel(full_name=serving.model)
        )
    )
    return serving


def _read(path: str) -> str:
    return Path(path).read_text("utf-8").strip()
