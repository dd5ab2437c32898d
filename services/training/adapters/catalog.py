"""The catalog over gRPC, with the service's own rights."""

from __future__ import annotations

from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration

from services.training.adapters.remote import raised_here
from services.training.ports import IssuedToken, ModelVersionFacts
from tessera.catalog.v1 import (
    authorization_service_pb2,
    authorization_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tessera_kit.config import Secret

__all__ = ["GrpcCatalog"]

_LONGEST = timedelta(days=730)


class GrpcCatalog:
    """`ports.Catalog` over a channel that carries the service's own token."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._authorization = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    async def issue_token(self, principal: str, lifetime: timedelta, comment: str) -> IssuedToken:
        """Make a token on behalf of a principal."""
        span = Duration()
        span.FromTimedelta(min(lifetime, _LONGEST))
        with raised_here("catalog"):
            made = await self._authorization.CreateToken(
                authorization_service_pb2.CreateTokenRequest(
                    principal=principal, comment=comment, lifetime=span
                )
            )
        return IssuedToken(made.token.token_id, Secret(made.secret))

    async def revoke_token(self, token_id: str) -> None:
        """Make a token useless; so be it if it is already, or is not known."""
        request = authorization_service_pb2.RevokeTokenRequest(token_id=token_id)
        with raised_here("catalog", ignore={grpc.StatusCode.NOT_FOUND}):
            await self._authorization.RevokeToken(request)

    async def model_version(self, model_name: str, version: int) -> ModelVersionFacts | None:
        """A model version; None when there is none."""
        request = model_service_pb2.GetModelVersionRequest(model_name=model_name, version=version)
        with raised_here("catalog", ignore={grpc.StatusCode.NOT_FOUND}):
            found = await self._models.GetModelVersion(request)
            return ModelVersionFacts(found.model_version.run_id)
        return None
