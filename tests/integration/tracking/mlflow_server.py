"""MLflow's own client before our door: a catalog, SQLite, and ClickHouse for spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from devstack import Stack
from services.catalog.domain.privileges import Privilege
from services.catalog.servicers.bindings import bindings
from services.tracking.adapters.catalog import CatalogRegistry
from services.tracking.adapters.clickhouse.spans import ClickHouseSpans
from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.adapters.secret_box import FernetBox
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.adapters.webhook_http import HttpHookSender
from services.tracking.consumers import RegistryConsumer
from services.tracking.domain.webhooks import HookUrls
from services.tracking.handlers.cases import Outside, Places, build_use_cases
from services.tracking.handlers.deliveries import Deliveries
from services.tracking.handlers.registry_news import RegistryNews
from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.routes import mlflow_routes
from services.tracking.ports.webhooks import Hooks
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import authorization_service_pb2_grpc as auth_rpc
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import SystemClock
from tessera_kit.config import ClickHouseConfig, Env, HttpConfig, KafkaConfig, RpcConfig, Secret
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tessera_kit.store.clickhouse import ClickHouse, quote_identifier
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.sql import Database
from tests.catalog_world import ADMIN_TOKEN, SERVICE_TOKEN, World, let_pass
from tests.helpers import unique_name
from tests.tracking_database import fresh_database

Value = TypeVar("Value")
_LOCAL = HookUrls(("http",), ("127.0.0.1",))


@pytest.fixture(scope="session")
async def spans_database(stack: Stack) -> AsyncIterator[ClickHouse]:
    config = ClickHouseConfig.from_env(stack.environment, database=unique_name("tracking"))
    outside = ClickHouseConfig.from_env(stack.environment, database="default")
    async with ClickHouse(config) as client, ClickHouse(outside) as other:
        yield client
        await other.command(f"DROP DATABASE IF EXISTS {quote_identifier(config.database)}")


@dataclass(frozen=True)
class Server:
    """The MLflow door, before a catalog: `ada` may create experiments and models, `bob` nothing."""

    address: str
    tokens: Mapping[str, str]
    catalog: str
    """Address of the catalog's gRPC door."""


@dataclass(frozen=True)
class Catalog:
    """A catalog, and its doors."""

    authority: CatalogAuthority
    registry: CatalogRegistry
    tokens: Mapping[str, str]
    address: str
    world: World


@asynccontextmanager
async def catalog() -> AsyncIterator[Catalog]:
    """A catalog behind its own door, with tokens of its users."""
    world = World()
    await world.begin()
    config = RpcConfig(listen="127.0.0.1:0", drain_seconds=0.1)
    server = build_server(config, bindings(world.cases), authenticator=world.cases.tokens)
    await server.start()
    try:
        async with (
            open_channel(server.address, token=Secret(SERVICE_TOKEN)) as own,
            open_channel(server.address) as bare,
        ):
            tokens = {}
            for name in ("ada", "bob"):
                await world.user(name)
                stub: Any = auth_rpc.AuthorizationServiceStub(bare)  # type: ignore[arg-type]
                made = await stub.CreateToken(
                    auth.CreateTokenRequest(principal=name),
                    metadata=(("authorization", f"Bearer {ADMIN_TOKEN}"),),
                )
                tokens[name] = made.secret
            tokens["admin"] = ADMIN_TOKEN
            await let_pass(world, "ada", [Privilege.CREATE_MODEL, Privilege.CREATE_EXPERIMENT])
            yield Catalog(
                CatalogAuthority(own), CatalogRegistry(bare), tokens, server.address, world
            )
    finally:
        await server.stop()


@pytest.fixture(scope="session")
async def mlflow_server(
    stack: Stack, spans_database: ClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    folder: Path = tmp_path_factory.mktemp("tracking")
    kafka = KafkaConfig.from_env(Env(stack.environment))
    async with (
        catalog() as governed,
        EventProducer(kafka) as producer,
        Database(await fresh_database(folder)) as database,
        ClickHouseSpans(spans_database) as spans,
        HttpHookSender(_LOCAL) as sender,
    ):
        hooks = Hooks(sender, FernetBox(Secret("key")), _LOCAL)
        store = SqlStore(database, InMemoryPoints())
        cases = build_use_cases(
            Outside(
                store,
                ObjectArtifacts(InMemoryObjectStore()),
                spans,
                governed.authority,
                registry=governed.registry,
                hooks=hooks,
            ),
            Places("s3://test/tracking"),
        )
        assert cases.webhooks is not None
        await cases.experiments.ensure_default()
        http = build_http_server(
            HttpConfig(listen="127.0.0.1:0"),
            mlflow_routes(cases),
            authenticator=governed.authority,
            render=mlflow_error,
        )
        await http.start()
        news = RegistryNews(
            cases.webhooks,
            partial(governed.registry.get_model, SERVICE_TOKEN),
            default_schema="main.default",
        )
        consumer = RegistryConsumer(kafka, news, producer, group=unique_name("webhooks"))
        tasks = [
            asyncio.create_task(Deliveries(store, hooks, SystemClock()).run()),
            asyncio.create_task(consumer.run()),
            asyncio.create_task(relayed(governed.world, producer)),
        ]
        try:
            yield Server(http.address, governed.tokens, governed.address)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await http.stop()
            await cases.log.close()


async def relayed(world: World, producer: EventProducer) -> None:
    """Publish what the catalog tells, as its outbox does."""
    done = 0
    while True:
        for event in world.store.events[done:]:
            await producer.publish(event)
            done += 1
        await asyncio.sleep(0.05)


@pytest.fixture
def mlflow(mlflow_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client, unmodified, told where the server is and which token to send."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", mlflow_server.tokens["ada"])
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    mlflow.set_tracking_uri(mlflow_server.address)
    yield mlflow


async def ran(scenario: Callable[[], Value]) -> Value:
    """Run what blocks in a thread, while the server answers on the loop."""
    return await asyncio.to_thread(scenario)
