"""A training service that runs real processes behind its real gRPC doors.

Its database is SQLite; the catalog, tracking and the object store are their twins in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from devstack import Stack
from services.training.adapters.git import Git
from services.training.adapters.logs import FileLogs
from services.training.adapters.memory import InMemoryCatalog, InMemoryTracking
from services.training.adapters.processes import LocalProcesses
from services.training.adapters.sources import LocalSources
from services.training.adapters.sql import (
    SqlCheckpointFiles,
    SqlChores,
    SqlJobs,
    SqlTriggers,
)
from services.training.domain.checks import GitRules
from services.training.domain.queue import Capacity
from services.training.handlers.cases import (
    Outside,
    Settings,
    Store,
    UseCases,
    build_use_cases,
)
from services.training.ports import IssuedToken
from services.training.servicers.bindings import bindings
from tessera import AsyncClient
from tessera import Settings as ClientSettings
from tessera.catalog.v1 import securable_pb2 as securable
from tessera.client.aio.training import AsyncTraining
from tessera_kit.config import DatabaseConfig, RpcConfig, Secret
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.server import build_server
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database

ANN_TOKEN = "ann-token"
ABSENT = ("INFERENCE", "MONITORING", "GATEWAY")


class TokenCatalog(InMemoryCatalog):
    """A catalog whose tokens are good at the door."""

    def __init__(self, authority: InMemoryAuthority) -> None:
        super().__init__()
        self._authority = authority
        self.secrets: dict[str, str] = {}

    async def issue_token(self, principal: str, lifetime: timedelta, comment: str) -> IssuedToken:
        token = await super().issue_token(principal, lifetime, comment)
        self.secrets[token.token_id] = token.secret.reveal()
        self._authority.add_principal(Principal(principal), token.secret.reveal())
        return token

    async def revoke_token(self, token_id: str) -> None:
        await super().revoke_token(token_id)
        self._authority.remove_token(self.secrets[token_id])


@dataclass
class Running:
    """A service that answers."""

    service: UseCases
    address: str
    authority: InMemoryAuthority
    catalog: TokenCatalog
    tracking: InMemoryTracking
    objects: InMemoryObjectStore
    database: Database
    folder: Path

    def channel(self, token: str) -> grpc.aio.Channel:
        return open_channel(self.address, token=Secret(token), retry=False)

    @contextlib.asynccontextmanager
    async def client(self, token: str = ANN_TOKEN) -> AsyncIterator[AsyncTraining]:
        async with self.channel(token) as channel:
            yield AsyncTraining(channel)


@contextlib.asynccontextmanager
async def running(folder: Path, *, slots: int = 2, grace: float = 5.0) -> AsyncIterator[Running]:
    url = f"sqlite+aiosqlite:///{folder / 'training.db'}"
    await migrate(url, "training")
    authority = InMemoryAuthority()
    for name in ("ann", "bob"):
        authority.add_principal(Principal(name), f"{name}-token")
    authority.grant(
        "ann",
        [
            securable.PRIVILEGE_CREATE_JOB,
            securable.PRIVILEGE_SELECT,
            securable.PRIVILEGE_CREATE_MODEL_VERSION,
            securable.PRIVILEGE_BROWSE,
        ],
        securable.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    catalog, tracking = TokenCatalog(authority), InMemoryTracking()
    objects = InMemoryObjectStore()
    rules = GitRules(file_root=str(folder / "repositories"))
    variables: dict[str, str] = {
        "TESSERA_CATALOG_TARGET": "127.0.0.1:1",
        "TESSERA_TRACKING_TARGET": "127.0.0.1:1",
    }
    async with Database(DatabaseConfig(url)) as database:
        jobs = folder / "jobs"
        service = build_use_cases(
            Store(
                SqlJobs(database),
                SqlCheckpointFiles(database),
                SqlTriggers(database),
                SqlChores(database),
            ),
            Outside(
                authority,
                catalog,
                tracking,
                objects,
                LocalSources(jobs, Git(rules, timeout=30.0)),
                LocalProcesses(jobs, grace_seconds=grace, log_limit_bytes=1 << 24),
                FileLogs(jobs),
            ),
            Settings(Capacity(slots), rules, variables, preempt_seconds=grace + 2.0),
        )
        config = RpcConfig("127.0.0.1:0", drain_seconds=1.0)
        server = build_server(config, bindings(service), authenticator=authority)
        variables["TESSERA_TRAINING_TARGET"] = server.address
        await server.start()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(service.scheduler.run()),
            asyncio.create_task(service.chores.run()),
        ]
        try:
            yield Running(
                service,
                server.address,
                authority,
                catalog,
                tracking,
                objects,
                database,
                folder,
            )
        finally:
            await service.stop()
            await server.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="session")
async def training_stack(stack: Stack) -> Stack:
    """The engines with the services that training works with."""
    if stack.is_local:
        running = {process.name for process in stack.state().processes}
        if missing := {"catalog", "tracking", "training"} - running:
            await stack.start(*missing)
    return stack


@pytest.fixture
async def platform_client(training_stack: Stack) -> AsyncIterator[AsyncClient]:
    """The administrator's client of the real services."""
    # The doors of services that are not there are never knocked at.
    absent = {f"TESSERA_{name}_TARGET": "127.0.0.1:1" for name in ABSENT}
    variables = {**absent, **training_stack.environment}
    variables.setdefault("TESSERA_TOKEN_FILE", variables.get("TESSERA_ADMIN_TOKEN_FILE", ""))
    async with AsyncClient(ClientSettings.from_env(variables)) as client:
        yield client


@pytest.fixture
async def training(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one
