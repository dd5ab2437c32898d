"""The catalog is killed while it works: what it said stays true, and nothing is left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from devstack import Stack
from tessera.catalog.v1 import catalog_pb2, model_pb2
from tessera.catalog.v1 import catalog_service_pb2 as tree
from tessera.catalog.v1 import model_service_pb2 as model
from tessera_kit.config import ClickHouseConfig
from tessera_kit.store.clickhouse import ClickHouse
from tests.helpers import eventually
from tests.integration.catalog.conftest import Client
from tests.integration.catalog.test_catalog_rows import (
    COLUMNS,
    append_messages,
    count,
    some_rows,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def killable(running: Stack, local_stack: Stack) -> Stack:
    return running


async def through_kills(action: Callable[[], Awaitable[object]]) -> None:
    """Do something again until it succeeds, as a client does while a service is away."""

    async def attempt() -> bool:
        try:
            await action()
        except grpc.aio.AioRpcError as error:
            passing = {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.INTERNAL,
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }
            assert error.code() in passing, error.details()
            return False
        return True

    await eventually(attempt, timeout=120)


def create(name: str, request_id: str) -> tree.CreateTableRequest:
    table = catalog_pb2.Table(full_name=name, type=catalog_pb2.TABLE_TYPE_MANAGED, columns=COLUMNS)
    return tree.CreateTableRequest(table=table, request_id=request_id)


async def test_tables_and_their_storage_agree(killable: Stack, admin: Client, schema: str) -> None:
    """Tables are made and deleted while the process dies, again and again."""
    kept = [f"{schema}.kept{n}" for n in range(12)]
    gone = [f"{schema}.gone{n}" for n in range(6)]
    done = asyncio.Event()

    async def work() -> None:
        for number, name in enumerate(kept):
            request = create(name, f"{name}-{number}")
            await through_kills(lambda request=request: admin.tree.CreateTable(request))
        for name in gone:
            request = create(name, name)
            await through_kills(lambda request=request: admin.tree.CreateTable(request))
            await delete(name)
        done.set()

    async def delete(name: str) -> None:
        async def once() -> None:
            try:
                await admin.tree.DeleteTable(tree.DeleteTableRequest(full_name=name))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise

        await through_kills(once)

    working = asyncio.create_task(work())
    kills = 0
    while not done.is_set() and kills < 4:
        before = len(await physical_tables(killable, schema))
        await eventually(lambda before=before: changed(killable, schema, before, done), timeout=120)
        if not done.is_set():
            killable.kill("catalog")
            kills += 1
            await killable.wait_healthy("catalog")
    await working
    assert kills > 0

    async def settled() -> bool:
        listed = await admin.tree.ListTables(
            tree.ListTablesRequest(schema_full_name=schema, page_size=1000)
        )
        known = {table.physical.table for table in listed.tables}
        assert known == {name.rpartition(".")[2] for name in kept}
        assert await physical_tables(killable, schema) == known
        return True

    await eventually(settled, timeout=90)


async def physical_tables(stack: Stack, schema: str) -> set[str]:
    """What ClickHouse itself has of a schema."""
    config = ClickHouseConfig.from_env(stack.environment)
    database = f"{config.database}_{schema.replace('.', '__')}"
    config = ClickHouseConfig.from_env(stack.environment, database="default")
    async with ClickHouse(config) as clickhouse:
        result = await clickhouse.query(
            "SELECT name FROM system.tables WHERE database = {database:String}",
            {"database": database},
        )
    return {str(row[0]) for row in result.rows}


async def changed(stack: Stack, schema: str, before: int, done: asyncio.Event) -> bool:
    return done.is_set() or len(await physical_tables(stack, schema)) != before


async def test_rows_sent_again_after_a_kill_are_there_once(
    killable: Stack, admin: Client, schema: str
) -> None:
    name, sent = f"{schema}.t", some_rows(400_000)
    await admin.tree.CreateTable(create(name, name))

    async def send() -> None:
        await admin.rows.AppendRows(append_messages(name, sent, "one"))

    sending = asyncio.create_task(through_kills(send))

    async def begun() -> bool:
        try:
            return await count(admin, name) > 0
        except grpc.aio.AioRpcError:
            return False

    await eventually(begun, timeout=120)
    killable.kill("catalog")
    await killable.wait_healthy("catalog")
    await sending
    assert await count(admin, name) == 400_000


async def test_an_upload_cut_by_a_kill_does_not_block_its_version(
    killable: Stack, admin: Client, schema: str
) -> None:
    name = f"{schema}.m"
    await admin.models.CreateRegisteredModel(
        model.CreateRegisteredModelRequest(
            registered_model=model_pb2.RegisteredModel(full_name=name)
        )
    )
    await admin.models.CreateModelVersion(model.CreateModelVersionRequest(model_name=name))
    call = admin.models.UploadModelFile()
    header = model.UploadModelFileHeader(model_name=name, version=1, path="lost.bin")
    await call.write(model.UploadModelFileRequest(header=header))
    await call.write(model.UploadModelFileRequest(chunk=b"x" * (1 << 20)))

    async def running() -> bool:
        request = model.FinalizeModelVersionRequest(model_name=name, version=1)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await admin.models.FinalizeModelVersion(request)
        assert "lost.bin is being uploaded" in str(failure.value.details())
        return True

    await eventually(running, timeout=60)
    killable.kill("catalog")
    await killable.wait_healthy("catalog")
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    header.path = "model.pt2"
    messages = [
        model.UploadModelFileRequest(header=header),
        model.UploadModelFileRequest(chunk=b"weights"),
    ]
    await admin.models.UploadModelFile(iter(messages))
    done = await admin.models.FinalizeModelVersion(
        model.FinalizeModelVersionRequest(model_name=name, version=1)
    )
    assert done.model_version.status == model_pb2.MODEL_VERSION_STATUS_READY
    assert done.model_version.size_bytes == len(b"weights")
