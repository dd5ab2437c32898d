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
    table_data_service_pb2,
    table_data_service_pb2_grpc,
)
from tessera_kit.config import Secret

__all__ = ["GrpcCatalog"]

_LONGEST = timedelta(days=730)
# The job finds out by itself that a table is gone or its files are unreadable, and may do without.
_NO_CONTENT = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})


class GrpcCatalog:
    """`ports.Catalog` over a channel that carries the service's own token."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._authorization = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
        self._rows = table_data_service_pb2_grpc.TableDataServiceStub(channel)
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

    async def table_version(self, full_name: str) -> str:
        """What names a table's content as it is now; empty when there is none to be read."""
        request = table_data_service_pb2.GetTableVersionRequest(full_name=full_name)
        with raised_here("catalog", ignore=_NO_CONTENT):
            return (await self._rows.GetTableVersion(request)).version
        return ""
