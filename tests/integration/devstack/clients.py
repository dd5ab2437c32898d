"""Unmodified clients, made from a stack's variables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlparse

import clickhouse_connect
from aiobotocore.session import get_session

from devstack import Stack


def s3_client(stack: Stack) -> AbstractAsyncContextManager[Any]:
    """An aiobotocore S3 client."""
    environment = stack.environment
    client: AbstractAsyncContextManager[Any] = get_session().create_client(
        "s3",
        endpoint_url=environment["TESSERA_S3_ENDPOINT"],
        region_name=environment["TESSERA_S3_REGION"],
        aws_access_key_id=environment["TESSERA_S3_ACCESS_KEY"],
        aws_secret_access_key=environment["TESSERA_S3_SECRET_KEY"],
    )
    return client


def clickhouse_arguments(stack: Stack) -> dict[str, Any]:
    """The arguments of `clickhouse_connect.get_client` and `get_async_client`."""
    environment = stack.environment
    url = urlparse(environment["TESSERA_CLICKHOUSE_URL"])
    return {
        "host": url.hostname,
        "port": url.port,
        "username": environment["TESSERA_CLICKHOUSE_USER"],
        "password": environment["TESSERA_CLICKHOUSE_PASSWORD"],
    }


@asynccontextmanager
async def clickhouse_client(stack: Stack, **arguments: Any) -> AsyncIterator[Any]:
    """An asynchronous clickhouse-connect client."""
    client = await clickhouse_connect.get_async_client(**clickhouse_arguments(stack), **arguments)
    try:
        yield client
    finally:
        await client.close()
