"""The five gRPC services over sockets, on adapters in memory: what a client sees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import catalog_pb2, model_pb2, securable_pb2
from tessera.catalog.v1 import catalog_service_pb2 as tree
from tessera.catalog.v1 import model_service_pb2 as model
from tests.unit.catalog.doors import ADMIN, FLIGHTS, Doors, bearer, reference, refused


async def test_every_call_needs_a_token(doors: Doors) -> None:
    calls: list[Callable[..., Any]] = [
        lambda **k: doors.tree.ListCatalogs(tree.ListCatalogsRequest(), **k),
        lambda **k: doors.auth.WhoAmI(auth.WhoAmIRequest(), **k),
        lambda **k: doors.auth.Decide(
            auth.DecideRequest(
                principal="admin",
                questions=[
                    auth.AccessQuestion(
                        securable=reference(2, "main"), privilege=securable_pb2.PRIVILEGE_BROWSE
                    )
                ],
            ),
            **k,
        ),
    ]
    for call in calls:
        for metadata in ((), bearer("tsr_no_" + "x" * 43)):
            await refused(call(metadata=metadata), grpc.StatusCode.UNAUTHENTICATED)


async def test_who_am_i(doors: Doors) -> None:
    who = (await doors.auth.WhoAmI(auth.WhoAmIRequest(), metadata=ADMIN)).principal
    assert (who.name, who.is_admin, who.kind) == ("admin", True, auth.PRINCIPAL_KIND_USER)
    assert who.created_at.seconds > 0


class TestTree:
    async def test_a_table_from_creation_to_deletion(self, doors: Doors) -> None:
        request = tree.CreateTableRequest(table=FLIGHTS, request_id="r1")
        made = (await doors.tree.CreateTable(request, metadata=ADMIN)).table
        again = (await doors.tree.CreateTable(request, metadata=ADMIN)).table
        assert made == again
        assert made.physical.database == "tessera_main__default"
        assert list(made.layout.order_by) == ["id"]
        assert (made.owner, made.tags["domain"]) == ("admin", "traffic")
        got = await doors.tree.GetTable(
            tree.GetTableRequest(full_name=made.full_name), metadata=ADMIN
        )
        assert got.table == made
        update = tree.UpdateTableRequest(
            table=catalog_pb2.Table(
                full_name=made.full_name, type=made.type, comment="new", etag=made.etag
            ),
            update_mask=FieldMask(paths=["comment"]),
        )
        changed = (await doors.tree.UpdateTable(update, metadata=ADMIN)).table
        assert (changed.comment, list(changed.columns)) == ("new", list(made.columns))
        stale = doors.tree.UpdateTable(update, metadata=ADMIN)
        assert (await refused(stale, grpc.StatusCode.ABORTED))[0] == "STALE_ETAG"
        delete = tree.DeleteTableRequest(full_name=made.full_name, etag=made.etag)
        await refused(doors.tree.DeleteTable(delete, metadata=ADMIN), grpc.StatusCode.ABORTED)
        delete.etag = changed.etag
        await doors.tree.DeleteTable(delete, metadata=ADMIN)
        gone = doors.tree.GetTable(tree.GetTableRequest(full_name=made.full_name), metadata=ADMIN)
        reason, _ = await refused(gone, grpc.StatusCode.NOT_FOUND)
        assert reason == "SECURABLE_NOT_FOUND"

    async def test_wrong_requests_name_their_fields(self, doors: Doors) -> None:
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        bad = catalog_pb2.Table()
        bad.CopyFrom(FLIGHTS)
        bad.columns[1].data_type = "String) ENGINE=URL('http://x') --"
        call = doors.tree.CreateTable(tree.CreateTableRequest(table=bad), metadata=ADMIN)
        assert await refused(call, invalid) == ("INVALID_COLUMN", ["table.columns[1].data_type"])
        bad.columns[1].data_type = "String"
        bad.columns[1].name = "a`b"
        call = doors.tree.CreateTable(tree.CreateTableRequest(table=bad), metadata=ADMIN)
        assert (await refused(call, invalid))[1] == ["table.columns[1].name"]
        call = doors.tree.CreateCatalog(
            tree.CreateCatalogRequest(catalog=catalog_pb2.Catalog(name="No Good")), metadata=ADMIN
        )
        assert (await refused(call, invalid))[1] == ["catalog.name"]
        call = doors.tree.UpdateCatalog(
            tree.UpdateCatalogRequest(
                catalog=catalog_pb2.Catalog(name="main"), update_mask=FieldMask(paths=["name"])
            ),
            metadata=ADMIN,
        )
        assert await refused(call, invalid) == ("INVALID_UPDATE_MASK", ["update_mask"])

    async def test_listings_page_by_token(self, doors: Doors) -> None:
        for number in range(5):
            name = f"main.s{number}"
            await doors.tree.CreateSchema(
                tree.CreateSchemaRequest(schema=catalog_pb2.Schema(full_name=name)),
                metadata=ADMIN,
            )
        found: list[str] = []
        request = tree.ListSchemasRequest(catalog_name="main", page_size=2)
        while True:
            page = await doors.tree.ListSchemas(request, metadata=ADMIN)
            found += [schema.full_name for schema in page.schemas]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == ["main.default", *(f"main.s{n}" for n in range(5))]
        foreign = doors.tree.ListTables(
            tree.ListTablesRequest(schema_full_name="main.s1", page_token=request.page_token),
            metadata=ADMIN,
        )
        reason, _ = await refused(foreign, grpc.StatusCode.INVALID_ARGUMENT)
        assert reason == "INVALID_PAGE_TOKEN"

    async def test_search_and_tags(self, doors: Doors) -> None:
        await doors.tree.CreateTable(tree.CreateTableRequest(table=FLIGHTS), metadata=ADMIN)
        tagged = await doors.tree.UpdateTags(
            tree.UpdateTagsRequest(
                securable=reference(4, FLIGHTS.full_name), set={"pii": "no"}, remove=["domain"]
            ),
            metadata=ADMIN,
        )
        assert dict(tagged.tags) == {"pii": "no"}
        request = tree.SearchSecurablesRequest(query="DEPARTURES pii")
        found = await doors.tree.SearchSecurables(request, metadata=ADMIN)
        assert [one.full_name for one in found.securables] == [FLIGHTS.full_name]
        ada = await doors.user("ada")
        assert not (await doors.tree.SearchSecurables(request, metadata=ada)).securables

    async def test_volumes(self, doors: Doors) -> None:
        made = await doors.tree.CreateVolume(
            tree.CreateVolumeRequest(volume=catalog_pb2.Volume(full_name="main.default.raw")),
            metadata=ADMIN,
        )
        assert made.volume.storage_location == "volumes/main/default/raw/"
        listed = await doors.tree.ListVolumes(
            tree.ListVolumesRequest(schema_full_name="main.default"), metadata=ADMIN
        )
        assert list(listed.volumes) == [made.volume]
        await doors.tree.DeleteVolume(
            tree.DeleteVolumeRequest(full_name="main.default.raw"), metadata=ADMIN
        )


class TestModels:
    async def test_a_version_that_is_created_again_is_the_first_whatever_was_measured(
        self, doors: Doors
    ) -> None:
        name = "main.default.retried"
        await doors.model.CreateRegisteredModel(
            model.CreateRegisteredModelRequest(
                registered_model=model_pb2.RegisteredModel(full_name=name)
            ),
            metadata=ADMIN,
        )
        request = model.CreateModelVersionRequest(
            model_name=name, run_id="run-1", tags={"mse": "1e-12"}, request_id="job#1"
        )
        first = (await doors.model.CreateModelVersion(request, metadata=ADMIN)).model_version
        request.tags["mse"] = "2e-12"
        again = (await doors.model.CreateModelVersion(request, metadata=ADMIN)).model_version
        assert again == first
        request.run_id = "run-2"
        other = doors.model.CreateModelVersion(request, metadata=ADMIN)
        await refused(other, grpc.StatusCode.INVALID_ARGUMENT)

    async def test_a_version_from_upload_to_download(self, doors: Doors) -> None:
        name, content = "main.default.delay", b"w" * 3_000_000
        await doors.model.CreateRegisteredModel(
            model.CreateRegisteredModelRequest(
                registered_model=model_pb2.RegisteredModel(full_name=name)
            ),
            metadata=ADMIN,
        )
        version = (
            await doors.model.CreateModelVersion(
                model.CreateModelVersionRequest(model_name=name, run_id="run-1"), metadata=ADMIN
            )
        ).model_version
        header = model.UploadModelFileHeader(
            model_name=name,
            version=version.version,
            path="model.pt2",
            sha256=hashlib.sha256(content).hexdigest(),
        )

        def parts() -> Iterator[model.UploadModelFileRequest]:
            yield model.UploadModelFileRequest(header=header)
            for start in range(0, len(content), 1 << 20):
                yield model.UploadModelFileRequest(chunk=content[start : start + (1 << 20)])

        stored = (await doors.model.UploadModelFile(parts(), metadata=ADMIN)).file
        assert (stored.size_bytes, stored.sha256) == (len(content), header.sha256)
        ready = (
            await doors.model.FinalizeModelVersion(
                model.FinalizeModelVersionRequest(model_name=name, version=1), metadata=ADMIN
            )
        ).model_version
        assert ready.status == model_pb2.MODEL_VERSION_STATUS_READY
        assert ready.size_bytes == len(content)
        await doors.model.SetModelAlias(
            model.SetModelAliasRequest(model_name=name, alias="champion", version=1),
            metadata=ADMIN,
        )
        by_alias = await doors.model.GetModelVersionByAlias(
            model.GetModelVersionByAliasRequest(model_name=name, alias="champion"),
            metadata=ADMIN,
        )
        assert list(by_alias.model_version.aliases) == ["champion"]
        pieces = doors.model.DownloadModelFile(
            model.DownloadModelFileRequest(model_name=name, version=1, path="model.pt2"),
            metadata=ADMIN,
        )
        assert b"".join([piece.chunk async for piece in pieces]) == content
        late = doors.model.UploadModelFile(parts(), metadata=ADMIN)
        reason, _ = await refused(late, grpc.StatusCode.FAILED_PRECONDITION)
        assert reason == "MODEL_VERSION_NOT_PENDING"
        listed = await doors.model.ListModelFiles(
            model.ListModelFilesRequest(model_name=name, version=1), metadata=ADMIN
        )
        assert [file.path for file in listed.files] == ["model.pt2"]

    @pytest.mark.parametrize("first", ["nothing", "chunk", "two headers"])
    async def test_uploads_are_one_header_and_bytes(self, doors: Doors, first: str) -> None:
        header = model.UploadModelFileHeader(model_name="main.default.m", version=1, path="x")
        messages = {
            "nothing": [],
            "chunk": [model.UploadModelFileRequest(chunk=b"x")],
            "two headers": [model.UploadModelFileRequest(header=header)] * 2,
        }[first]
        await doors.model.CreateRegisteredModel(
            model.CreateRegisteredModelRequest(
                registered_model=model_pb2.RegisteredModel(full_name="main.default.m")
            ),
            metadata=ADMIN,
        )
        await doors.model.CreateModelVersion(
            model.CreateModelVersionRequest(model_name="main.default.m"), metadata=ADMIN
        )
        call = doors.model.UploadModelFile(iter(messages), metadata=ADMIN)
        reason, _ = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
        assert reason == "INVALID_UPLOAD"
        assert [info async for info in doors.world.objects.list("")] == []
