"""Rows, files and tables through the real engines, by a client."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.struct_pb2 import Value

from devstack import Stack
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import catalog_pb2, model_pb2, securable_pb2
from tessera.catalog.v1 import catalog_service_pb2 as tree
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.catalog.v1 import model_service_pb2 as model
from tessera.catalog.v1 import table_data_service_pb2 as rows
from tessera_kit.config import S3Config
from tessera_kit.store.s3 import S3ObjectStore
from tests.helpers import eventually
from tests.integration.catalog.conftest import Client

pytestmark = pytest.mark.timeout(180)

COLUMNS = [
    catalog_pb2.Column(name="id", data_type="Int64"),
    catalog_pb2.Column(name="at", data_type="DateTime64(3, 'UTC')"),
    catalog_pb2.Column(name="vector", data_type="Array(Float32)"),
    catalog_pb2.Column(name="word", data_type="LowCardinality(Nullable(String))"),
]


def some_rows(count: int) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "at": pa.array([i * 60_000 for i in range(count)], pa.timestamp("ms", "UTC")),
            "vector": pa.array([[i / 2, -1.0] for i in range(count)], pa.list_(pa.float64())),
            "word": pa.array(["it's", None, "ä"][i % 3] for i in range(count)),
        }
    )


def append_messages(
    name: str, table: pa.Table, request_id: str = ""
) -> Iterator[rows.AppendRowsRequest]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=30_000)
    data = sink.getvalue()
    header = rows.AppendRowsHeader(full_name=name, request_id=request_id)
    yield rows.AppendRowsRequest(header=header)
    for start in range(0, len(data), 1 << 20):
        yield rows.AppendRowsRequest(arrow_ipc=data[start : start + (1 << 20)])


async def read(client: Client, request: rows.ReadTableRequest) -> pa.Table:
    pieces = client.rows.ReadTable(request)
    data = b"".join([piece.arrow_ipc async for piece in pieces])
    return pa.ipc.open_stream(data).read_all()


async def count(client: Client, name: str, *predicates: rows.Predicate) -> int:
    request = rows.CountRowsRequest(full_name=name, predicates=predicates)
    return (await client.rows.CountRows(request)).row_count


async def test_rows_go_in_once_and_come_out_as_they_were(admin: Client, schema: str) -> None:
    name, sent = f"{schema}.t", some_rows(100_000)
    table = catalog_pb2.Table(
        full_name=name,
        type=catalog_pb2.TABLE_TYPE_MANAGED,
        columns=COLUMNS,
        layout=catalog_pb2.TableLayout(order_by=["id"], partition_by_month_of="at"),
        comment="rows with 'quotes' and \\",
    )
    made = (await admin.tree.CreateTable(tree.CreateTableRequest(table=table))).table
    assert made.physical.table == "t"
    for _ in range(2):
        result = await admin.rows.AppendRows(append_messages(name, sent, "r1"))
        assert result.row_count == 100_000
    assert await count(admin, name) == 100_000
    got = await read(admin, rows.ReadTableRequest(full_name=name, order_by=["id"]))
    assert got["id"].to_pylist() == sent["id"].to_pylist()
    assert got["at"].cast(pa.int64()).to_pylist() == sent["at"].cast(pa.int64()).to_pylist()
    assert got["word"].to_pylist() == sent["word"].to_pylist()
    assert got["vector"].to_pylist() == sent["vector"].to_pylist()
    late = rows.Predicate(
        column="at",
        operator=rows.COMPARISON_OPERATOR_GREATER_OR_EQUAL,
        value=Value(string_value="1970-03-01T00:00:00Z"),
    )
    assert await count(admin, name, late) == 100_000 - 59 * 24 * 60
    five = await read(
        admin,
        rows.ReadTableRequest(
            full_name=name, columns=["id"], predicates=[late], order_by=["-id"], limit=5
        ),
    )
    assert five["id"].to_pylist() == list(range(99_999, 99_994, -1))


async def test_a_reader_who_leaves_does_not_disturb_others(admin: Client, schema: str) -> None:
    name = f"{schema}.t"
    table = catalog_pb2.Table(full_name=name, type=catalog_pb2.TABLE_TYPE_MANAGED, columns=COLUMNS)
    await admin.tree.CreateTable(tree.CreateTableRequest(table=table))
    await admin.rows.AppendRows(append_messages(name, some_rows(150_000)))
    for _ in range(5):
        call = admin.rows.ReadTable(rows.ReadTableRequest(full_name=name))
        async for _piece in call:
            break
        call.cancel()
    assert await count(admin, name) == 150_000


async def test_files_of_a_volume_are_a_table(
    running: Stack, admin: Client, user: Client, schema: str
) -> None:
    volume = f"{schema}.raw"
    made = await admin.tree.CreateVolume(
        tree.CreateVolumeRequest(volume=catalog_pb2.Volume(full_name=volume))
    )
    location = made.volume.storage_location
    sink = io.BytesIO()
    pq.write_table(some_rows(1000), sink)
    async with S3ObjectStore(S3Config.from_env(running.environment)) as objects:
        await objects.put(f"{location}2013/01.parquet", sink.getvalue())
        await objects.put(f"{location}2013/02.parquet", sink.getvalue())
    name = f"{schema}.files"
    table = catalog_pb2.Table(
        full_name=name,
        type=catalog_pb2.TABLE_TYPE_EXTERNAL,
        storage_location=f"{location}2013/*.parquet",
    )
    created = (await admin.tree.CreateTable(tree.CreateTableRequest(table=table))).table
    assert [column.name for column in created.columns] == ["id", "at", "vector", "word"]
    assert not created.HasField("physical")
    small = rows.Predicate(
        column="id", operator=rows.COMPARISON_OPERATOR_LESS, value=Value(number_value=3)
    )
    assert await count(admin, name, small) == 6
    got = await read(
        admin, rows.ReadTableRequest(full_name=name, predicates=[small], order_by=["id"])
    )
    assert got["id"].to_pylist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await admin.rows.AppendRows(append_messages(name, some_rows(1)))
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await count(user, name)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    node = lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_TABLE, name=name)

    async def sources() -> list[str]:
        found = await admin.lineage.GetLineage(
            lineage.GetLineageRequest(node=node, direction=lineage.LINEAGE_DIRECTION_UPSTREAM)
        )
        assert found.edges
        return [edge.source.name for edge in found.edges]

    assert await eventually(sources, timeout=60) == [volume]


async def test_missing_and_foreign_files_are_told_without_secrets(
    running: Stack, admin: Client, schema: str
) -> None:
    secrets = [
        running.environment["TESSERA_S3_SECRET_KEY"],
        running.environment["TESSERA_S3_ACCESS_KEY"],
        running.environment["TESSERA_CLICKHOUSE_PASSWORD"],
    ]
    table = catalog_pb2.Table(
        full_name=f"{schema}.none",
        type=catalog_pb2.TABLE_TYPE_EXTERNAL,
        storage_location="external/there-is/nothing/*.parquet",
    )
    told: list[str] = []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await admin.tree.CreateTable(tree.CreateTableRequest(table=table))
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    told.append(f"{failure.value.details()} {failure.value.trailing_metadata()}")
    async with S3ObjectStore(S3Config.from_env(running.environment)) as objects:
        await objects.put(f"external/{schema}/text.parquet", b"this is no Parquet file at all")
    table.storage_location = f"external/{schema}/*.parquet"
    table.columns.append(catalog_pb2.Column(name="id", data_type="Int64"))
    await admin.tree.CreateTable(tree.CreateTableRequest(table=table))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await count(admin, table.full_name)
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    told.append(f"{failure.value.details()} {failure.value.trailing_metadata()}")
    if running.is_local:
        told.append(running.home.log_file("catalog").read_text())
    for secret in filter(None, secrets):
        assert all(secret not in text for text in told)


async def test_a_models_files_go_to_the_object_store_and_back(
    running: Stack, admin: Client, schema: str
) -> None:
    name, content = f"{schema}.m", os.urandom(20 << 20)
    digest = hashlib.sha256(content).hexdigest()
    await admin.models.CreateRegisteredModel(
        model.CreateRegisteredModelRequest(
            registered_model=model_pb2.RegisteredModel(full_name=name)
        )
    )
    made = await admin.models.CreateModelVersion(model.CreateModelVersionRequest(model_name=name))

    def messages(sha256: str) -> Iterator[model.UploadModelFileRequest]:
        header = model.UploadModelFileHeader(
            model_name=name, version=1, path="data/model.pt2", sha256=sha256
        )
        yield model.UploadModelFileRequest(header=header)
        for start in range(0, len(content), 1 << 20):
            yield model.UploadModelFileRequest(chunk=content[start : start + (1 << 20)])

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await admin.models.UploadModelFile(messages("0" * 64))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    stored = (await admin.models.UploadModelFile(messages(digest))).file
    assert (stored.size_bytes, stored.sha256) == (len(content), digest)
    ready = await admin.models.FinalizeModelVersion(
        model.FinalizeModelVersionRequest(model_name=name, version=1)
    )
    assert ready.model_version.size_bytes == len(content)
    pieces = admin.models.DownloadModelFile(
        model.DownloadModelFileRequest(model_name=name, version=1, path="data/model.pt2")
    )
    assert b"".join([piece.chunk async for piece in pieces]) == content
    async with S3ObjectStore(S3Config.from_env(running.environment)) as objects:
        key = made.model_version.storage_location + "data/model.pt2"
        assert (await objects.head(key)).size == len(content)
        await admin.models.DeleteModelVersion(
            model.DeleteModelVersionRequest(model_name=name, version=1)
        )
        prefix = made.model_version.storage_location
        assert [info async for info in objects.list(prefix)] == []


async def test_grants_open_a_table_step_by_step(admin: Client, user: Client, schema: str) -> None:
    name = f"{schema}.t"
    table = catalog_pb2.Table(full_name=name, type=catalog_pb2.TABLE_TYPE_MANAGED, columns=COLUMNS)
    await admin.tree.CreateTable(tree.CreateTableRequest(table=table))
    steps = [
        (securable_pb2.SECURABLE_TYPE_CATALOG, "main", securable_pb2.PRIVILEGE_USE_CATALOG),
        (securable_pb2.SECURABLE_TYPE_SCHEMA, schema, securable_pb2.PRIVILEGE_USE_SCHEMA),
        (securable_pb2.SECURABLE_TYPE_TABLE, name, securable_pb2.PRIVILEGE_SELECT),
    ]
    for kind, full_name, privilege in steps:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await count(user, name)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        await admin.auth.UpdateGrants(
            auth.UpdateGrantsRequest(
                securable=securable_pb2.SecurableReference(type=kind, full_name=full_name),
                add=[auth.Grant(principal=user.name, privilege=privilege)],
            )
        )
    assert await count(user, name) == 0
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await user.rows.AppendRows(append_messages(name, some_rows(1)))
    assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "MODIFY" in str(failure.value.details())
