"""The tracking service behind a real gRPC door, on SQLite, with principals of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.memory.traces import InMemorySpans
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.adapters.secret_box import FernetBox
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.adapters.webhook_http import HttpHookSender
from services.tracking.domain.webhooks import HookUrls
from services.tracking.handlers.cases import Outside, Places, UseCases, build_use_cases
from services.tracking.ports.webhooks import Hooks
from services.tracking.servicers import bindings
from tessera.catalog.v1 import securable_pb2
from tessera.tracking.v1 import tracking_service_pb2_grpc as rpc
from tessera_kit.config import RpcConfig, Secret
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.server import RpcServer, build_server
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.sql import Database
from tests.tracking_database import fresh_database

from .mlflow_server import mlflow, mlflow_server, spans_database

__all__ = ["authority", "mlflow", "mlflow_server", "service", "spans_database"]


@dataclass(frozen=True)
class Service:
    """The running service as its users see it, and what it stands on."""

    address: str
    authority: InMemoryAuthority
    server: RpcServer
    database: Database
    cases: UseCases
    ada: rpc.TrackingServiceStub
    """May create experiments."""
    bob: rpc.TrackingServiceStub
    """Holds no grants."""
    admin: rpc.TrackingServiceStub


@pytest.fixture
async def authority() -> InMemoryAuthority:
    authority = InMemoryAuthority()
    authority.add_principal(Principal("ada"), "token-ada")
    authority.add_principal(Principal("bob"), "token-bob")
    authority.add_principal(Principal("admin", is_admin=True), "token-admin")
    metastore = securable_pb2.SECURABLE_TYPE_METASTORE
    create = securable_pb2.PRIVILEGE_CREATE_EXPERIMENT
    authority.grant("ada", [create], metastore, "metastore")
    return authority


@pytest.fixture
async def service(authority: InMemoryAuthority, tmp_path: Path) -> AsyncIterator[Service]:
    async with (
        Database(await fresh_database(tmp_path)) as database,
        HttpHookSender(HookUrls()) as sender,
    ):
        cases = build_use_cases(
            Outside(
                SqlStore(database, InMemoryPoints()),
                ObjectArtifacts(InMemoryObjectStore()),
                InMemorySpans(),
                authority,
                hooks=Hooks(sender, FernetBox(Secret("key")), HookUrls()),
            ),
            Places("s3://test/tracking"),
        )
        await cases.experiments.ensure_default()
        rpc_config = RpcConfig(listen="127.0.0.1:0", drain_seconds=1.0)
        server = build_server(rpc_config, bindings(cases), authenticator=authority)
        await server.start()
        channels = {name: channel_of(server.address, name) for name in ("ada", "bob", "admin")}
        try:
            yield Service(
                address=server.address,
                authority=authority,
                server=server,
                database=database,
                cases=cases,
                **{name: stub(channel) for name, channel in channels.items()},
            )
        finally:
            for channel in channels.values():
                await channel.close()
            await server.stop()
            await cases.log.close()


def channel_of(address: str, name: str) -> grpc.aio.Channel:
    return open_channel(address, token=Secret(f"token-{name}"))


def stub(channel: grpc.aio.Channel) -> rpc.TrackingServiceStub:
    return rpc.TrackingServiceStub(channel)
