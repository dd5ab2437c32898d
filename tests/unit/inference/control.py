"""An endpoint's life over what is in memory: deployer, store, runtime, manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from services.inference.adapters.memory import (
    InMemoryBundles,
    InMemoryEndpoints,
    InMemoryModels,
    InMemoryPayloads,
    InMemoryRuntime,
    InMemorySecrets,
    InMemoryTables,
)
from services.inference.domain.endpoint import Endpoint, EntityRequest
from services.inference.gateway.routing import RouteTable
from services.inference.handlers.changes import Changes
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.endpoints import EndpointHandlers, NewEndpoint
from services.inference.handlers.resolution import Resolver
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import ManualClock
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tests.unit.inference.archives import torchscript_archive

MODEL = "main.flights.delay"


SCHEMA = "main.flights"


ADA = Principal("ada")


BOB = Principal("bob")


ADMIN = Principal("root", is_admin=True)


class Control:
    """The control plane with twins around it."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = {**manifest, "flavor": "torchscript", "file": "model.pt"}
        self.endpoints = InMemoryEndpoints()
        self.models = InMemoryModels()
        self.runtime = InMemoryRuntime(self._answer)
        self.tables = InMemoryTables([SCHEMA])
        self.authority = InMemoryAuthority()
        self.authority.grant(
            "ada",
            [securable_pb2.PRIVILEGE_CREATE_ENDPOINT],
            securable_pb2.SECURABLE_TYPE_METASTORE,
            "metastore",
        )
        self.authority.grant(
            "ada",
            [securable_pb2.PRIVILEGE_EXECUTE],
            securable_pb2.SECURABLE_TYPE_MODEL,
            MODEL,
        )
        self.routes = RouteTable()
        self.changes = Changes()
        self.clock = ManualClock()
        self.bundles = InMemoryBundles()
        self.secrets = InMemorySecrets()
        self.payloads = InMemoryPayloads()
        self.deployer = self.new_deployer()
        for version in (1, 2):
            self.put_version(version)
        self.handlers = EndpointHandlers(
            endpoints=self.endpoints,
            tables=self.tables,
            reader=self.payloads,
            resolver=Resolver(self.models, self.authority),
            deployer=self.deployer,
            authority=self.authority,
            changes=self.changes,
            clock=self.clock,
        )

    def share(self, other: Control) -> None:
        """Stand on the same store and runtime as another process does."""
        self.endpoints, self.models = other.endpoints, other.models
        self.runtime, self.bundles = other.runtime, other.bundles
        self.secrets = other.secrets
        self.deployer = self.new_deployer()

    def new_deployer(self) -> Deployer:
        return Deployer(
            endpoints=self.endpoints,
            models=self.models,
            runtime=self.runtime,
            bundles=self.bundles,
            secrets=self.secrets,
            routes=self.routes,
            changes=self.changes,
            clock=self.clock,
            interval_seconds=0.01,
        )

    @staticmethod
    async def _answer(request: bytes) -> bytes:
        return request

    def put_version(self, version: int, *, content: bytes = b"", ready: bool = True) -> None:
        self.models.put(
            MODEL,
            version,
            {
                "model.json": json.dumps(self.manifest).encode(),
                "model.pt": content or torchscript_archive(version),
            },
            ready=ready,
        )

    async def create(
        self, name: str = "delays", caller: Principal = ADA, request_id: str = "", **changes: Any
    ) -> Endpoint:
        told: dict[str, Any] = {"entities": [entity(1)], "schema": SCHEMA, **changes}
        return await self.handlers.create(caller, NewEndpoint(name=name, **told), request_id)

    async def created(self, name: str = "delays", **changes: Any) -> Endpoint:
        await self.create(name, **changes)
        await self.deployer.idle()
        return await self.endpoints.get(name)

    def steps(self) -> list[str]:
        """What the events say was done, in order."""
        prefix = "ENDPOINT_STEP_"
        return [
            pb.EndpointStep.Name(event.data.step).removeprefix(prefix)
            for event in self.endpoints.told
            if isinstance(event.data, pb.EndpointChanged)
        ]

    def told(self) -> list[str]:
        return [event.type.rpartition(".")[2] for event in self.endpoints.told]


def entity(version: int = 1, share: int = 100, **changes: Any) -> EntityRequest:
    return replace(EntityRequest("", MODEL, version, "", share, 1), **changes)
