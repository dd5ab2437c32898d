"""What the end-to-end tests and the benchmarks share: clients of a stack, and a served model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from devstack import Stack
from tessera import AsyncClient, Settings
from tessera.inference.v1 import endpoint_pb2
from tests.e2e import models
from tests.helpers import unique_name

CATALOG = "e2e"
READY_SECONDS = 240.0
"""Loading a model imports torch, which takes long on a machine that does much else."""


def settings_of(stack: Stack, token: str | None = None) -> Settings:
    """Doors of a stack; the administrator's token where none is given."""
    variables = dict(stack.environment)
    if token is not None:
        variables["TESSERA_TOKEN"] = token
    variables.setdefault("TESSERA_TOKEN_FILE", variables.get("TESSERA_ADMIN_TOKEN_FILE", ""))
    return Settings.from_env(variables)


@dataclass(frozen=True, slots=True)
class Served:
    """An endpoint with what stands behind it."""

    schema: str
    model: str
    endpoint: str
    table: str


@dataclass(frozen=True, slots=True)
class User:
    """A principal with a token."""

    name: str
    token_id: str
    token: str


async def new_schema(client: AsyncClient, prefix: str = "e2e") -> str:
    """A schema that no other test has; returns "catalog.schema"."""
    await client.catalog.create_catalog(CATALOG, exist_ok=True)
    schema = f"{CATALOG}.{unique_name(prefix)}"
    await client.catalog.create_schema(schema)
    return schema


async def serve_model(client: AsyncClient, *biases: float, prefix: str = "e2e") -> Served:
    """Registers a version of the model per bias and serves the first at an endpoint of its own."""
    versions = [models.version_files(bias) for bias in biases or (0.0,)]
    return await serve_versions(client, versions, prefix)


async def serve_versions(
    client: AsyncClient, versions: Iterable[dict[str, bytes]], prefix: str
) -> Served:
    """Registers versions of a model and serves the first at an endpoint of its own."""
    schema = await new_schema(client, prefix)
    model = f"{schema}.scorer"
    await client.models.create(model)
    for files in versions:
        await client.models.create_version(model, files)
    name = unique_name(prefix)
    endpoint = await client.inference.create_endpoint(
        name, [entity(model, 1, 100)], table_schema=schema
    )
    await client.inference.wait_ready(name, timeout=READY_SECONDS)
    return Served(schema, model, name, endpoint.inference_table_full_name)


async def remove_served(client: AsyncClient, served: Served) -> None:
    """Takes away what was served, and the catalog when nothing else is in it."""
    await client.inference.delete_endpoint(served.endpoint)
    await client.catalog.delete_schema(served.schema, force=True)
    if not await client.catalog.list_schemas(CATALOG):
        await client.catalog.delete_catalog(CATALOG)


def entity(model: str, version: int, percent: int) -> endpoint_pb2.ServedEntity:
    """A version behind an endpoint, named v1, v2 and so on."""
    return endpoint_pb2.ServedEntity(
        name=f"v{version}", model_name=model, model_version=version, traffic_percent=percent
    )


async def new_user(client: AsyncClient) -> User:
    """A principal without any grant."""
    name = unique_name("user")
    await client.access.create_principal(name)
    made = await client.access.create_token(name)
    return User(name, made.token.token_id, made.secret)
