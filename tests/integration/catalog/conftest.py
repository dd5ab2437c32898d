"""The catalog as a process of its own on real engines, and who calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from devstack import Stack
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import (
    authorization_service_pb2_grpc,
    catalog_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    lineage_service_pb2_grpc,
    model_service_pb2_grpc,
    table_data_service_pb2_grpc,
)
from tessera_kit.config import Secret
from tessera_kit.rpc.client import open_channel
from tests.helpers import unique_name


@dataclass
class Client:
    """One principal's stubs."""

    name: str
    secret: Secret
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        channel: Any = self.channel
        self.tree: catalog_service_pb2_grpc.CatalogServiceAsyncStub
        self.tree = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        self.models: model_service_pb2_grpc.ModelServiceAsyncStub
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)
        self.auth: authorization_service_pb2_grpc.AuthorizationServiceAsyncStub
        self.auth = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
        self.lineage: lineage_service_pb2_grpc.LineageServiceAsyncStub
        self.lineage = lineage_service_pb2_grpc.LineageServiceStub(channel)
        self.rows: table_data_service_pb2_grpc.TableDataServiceAsyncStub
        self.rows = table_data_service_pb2_grpc.TableDataServiceStub(channel)


@pytest.fixture(scope="session")
async def running(stack: Stack) -> Stack:
    """The stack with the catalog service."""
    if stack.is_local and stack.state().process("catalog") is None:
        await stack.start("catalog")
    return stack


def token_in(path: Path) -> Secret:
    return Secret(path.read_text().strip())


def target_of(stack: Stack) -> str:
    return stack.environment["TESSERA_CATALOG_TARGET"]


def client_of(stack: Stack, name: str, secret: Secret) -> Client:
    return Client(name, secret, open_channel(target_of(stack), token=secret, timeout=60.0))


@pytest.fixture
async def admin(running: Stack) -> AsyncIterator[Client]:
    path = Path(running.environment["TESSERA_ADMIN_TOKEN_FILE"])
    client = client_of(running, "admin", token_in(path))
    async with client.channel:
        yield client


@pytest.fixture
async def service(running: Stack) -> AsyncIterator[Client]:
    """One of the platform's services."""
    if not running.is_local:
        pytest.skip("the services' tokens are not on this machine")
    token = token_in(running.home.tokens / "monitoring.token")
    client = client_of(running, "monitoring", token)
    async with client.channel:
        yield client


@pytest.fixture
async def user(running: Stack, admin: Client) -> AsyncIterator[Client]:
    """A user who may nothing yet."""
    name = unique_name("user")
    principal = auth.Principal(name=name, kind=auth.PRINCIPAL_KIND_USER)
    await admin.auth.CreatePrincipal(auth.CreatePrincipalRequest(principal=principal))
    made = await admin.auth.CreateToken(auth.CreateTokenRequest(principal=name))
    client = client_of(running, name, Secret(made.secret))
    async with client.channel:
        yield client


@pytest.fixture
async def schema(admin: Client) -> AsyncIterator[str]:
    """A schema of the test's own."""
    name = f"main.{unique_name('s')}"
    await admin.tree.CreateSchema(
        catalog_service_pb2.CreateSchemaRequest(schema=catalog_pb2.Schema(full_name=name))
    )
    yield name
    await admin.tree.DeleteSchema(
        catalog_service_pb2.DeleteSchemaRequest(full_name=name, force=True)
    )
