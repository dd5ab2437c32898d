"""The catalog behind its gRPC doors, over stores in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import authorization_service_pb2_grpc as auth_rpc
from tessera.catalog.v1 import catalog_pb2, securable_pb2
from tessera.catalog.v1 import catalog_service_pb2_grpc as tree_rpc
from tessera.catalog.v1 import lineage_service_pb2_grpc as lineage_rpc
from tessera.catalog.v1 import model_service_pb2_grpc as model_rpc
from tessera.catalog.v1 import table_data_service_pb2_grpc as rows_rpc
from tests.catalog_world import ADMIN_TOKEN, SERVICE_TOKEN, World

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


ADMIN, SERVICE = bearer(ADMIN_TOKEN), bearer(SERVICE_TOKEN)


@dataclass
class Doors:
    world: World
    tree: tree_rpc.CatalogServiceAsyncStub
    model: model_rpc.ModelServiceAsyncStub
    auth: auth_rpc.AuthorizationServiceAsyncStub
    lineage: lineage_rpc.LineageServiceAsyncStub
    rows: rows_rpc.TableDataServiceAsyncStub

    async def user(self, name: str) -> Metadata:
        """A new user's credentials."""
        await self.world.user(name)
        made = await self.auth.CreateToken(auth.CreateTokenRequest(principal=name), metadata=ADMIN)
        return bearer(made.secret)


def details(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """The reason, and the fields at fault."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)  # type: ignore[arg-type]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    return info.reason, [violation.field for violation in bad.field_violations]


async def refused(call: Any, code: grpc.StatusCode) -> tuple[str, list[str]]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code, failure.value.details()
    return details(failure.value)


def reference(kind: int, name: str) -> securable_pb2.SecurableReference:
    return securable_pb2.SecurableReference(type=kind, full_name=name)  # type: ignore[arg-type]


FLIGHTS = catalog_pb2.Table(
    full_name="main.default.flights",
    type=catalog_pb2.TABLE_TYPE_MANAGED,
    columns=[
        catalog_pb2.Column(name="id", data_type="Int64"),
        catalog_pb2.Column(name="note", data_type="Nullable(String)"),
    ],
    comment="Departures",
    tags={"domain": "traffic"},
)
