"""A catalog in memory, and its doors over sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.catalog.servicers.bindings import bindings
from tessera.catalog.v1 import authorization_service_pb2_grpc as auth_rpc
from tessera.catalog.v1 import catalog_service_pb2_grpc as tree_rpc
from tessera.catalog.v1 import lineage_service_pb2_grpc as lineage_rpc
from tessera.catalog.v1 import model_service_pb2_grpc as model_rpc
from tessera.catalog.v1 import table_data_service_pb2_grpc as rows_rpc
from tessera_kit.config import RpcConfig
from tessera_kit.rpc.server import build_server
from tests.catalog_world import World
from tests.unit.catalog.doors import Doors


@pytest.fixture
async def world() -> World:
    world = World()
    await world.begin()
    return world


@pytest.fixture
async def doors(world: World) -> AsyncIterator[Doors]:
    config = RpcConfig(listen="127.0.0.1:0", drain_seconds=0.1)
    server = build_server(config, bindings(world.cases), authenticator=world.cases.tokens)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        untyped: Any = channel
        yield Doors(
            world,
            tree_rpc.CatalogServiceStub(untyped),
            model_rpc.ModelServiceStub(untyped),
            auth_rpc.AuthorizationServiceStub(untyped),
            lineage_rpc.LineageServiceStub(untyped),
            rows_rpc.TableDataServiceStub(untyped),
        )
    await server.stop()
