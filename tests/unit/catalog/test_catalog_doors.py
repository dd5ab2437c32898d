"""The five gRPC services over sockets, on adapters in memory: what a client sees."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import ListValue, Value
from google.rpc import error_details_pb2, status_pb2

from services.catalog.servicers.bindings import bindings
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import authorization_service_pb2_grpc as auth_rpc
from tessera.catalog.v1 import catalog_pb2, model_pb2, securable_pb2
from tessera.catalog.v1 import catalog_service_pb2 as tree
from tessera.catalog.v1 import catalog_service_pb2_grpc as tree_rpc
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.catalog.v1 import lineage_service_pb2_grpc as lineage_rpc
from tessera.catalog.v1 import model_service_pb2 as model
from tessera.catalog.v1 import model_service_pb2_grpc as model_rpc
from tessera.catalog.v1 import table_data_service_pb2 as rows
from tessera.catalog.v1 import table_data_service_pb2_grpc as rows_rpc
from tessera_kit.config import RpcConfig
from tessera_kit.rpc.server import build_server
from tests.catalog_world import ADMIN_TOKEN, SERVICE_TOKEN, World

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


ADMIN, SERVICE = bearer(ADMIN_TOKEN), bearer(SERVICE_TOKEN)


@dataclass
class Doors:
    world: World
    tree: tree_rpc.CatalogServiceAsyncStub
    model: model_rpc.ModelServiceAsyncStub
    auth: auth_rpc.AuthorizationServiceAsyncStub
    lineage: lineage_rpc.LineageServiceAsyncStub
    rows: rows_rpc.TableDataServiceAsyncStub

    async def user(self, name: str) -> Metadata:
        """A new user's credentials."""
        await self.world.user(name)
        made = await self.auth.CreateToken(auth.CreateTokenRequest(principal=name), metadata=ADMIN)
        return bearer(made.secret)


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


def details(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """The reason, and the fields at fault."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)  # type: ignore[arg-type]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    return info.reason, [violation.field for violation in bad.field_violations]


async def refused(call: Any, code: grpc.StatusCode) -> tuple[str, list[str]]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code, failure.value.details()
    return details(failure.value)


def reference(kind: int, name: str) -> securable_pb2.SecurableReference:
    return securable_pb2.SecurableReference(type=kind, full_name=name)  # type: ignore[arg-type]


FLIGHTS = catalog_pb2.Table(
    full_name="main.default.flights",
    type=catalog_pb2.TABLE_TYPE_MANAGED,
    columns=[
        catalog_pb2.Column(name="id", data_type="Int64"),
        catalog_pb2.Column(name="note", data_type="Nullable(String)"),
    ],
    comment="Departures",
    tags={"domain": "traffic"},
)


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


class TestAuthorization:
    async def test_grants_and_what_they_amount_to(self, doors: Doors) -> None:
        ada = await doors.user("ada")
        main = reference(2, "main")
        granted = await doors.auth.UpdateGrants(
            auth.UpdateGrantsRequest(
                securable=main,
                add=[auth.Grant(principal="ada", privilege=securable_pb2.PRIVILEGE_USE_CATALOG)],
            ),
            metadata=ADMIN,
        )
        assert granted.grants[0].granted_by == "admin"
        await doors.tree.GetCatalog(tree.GetCatalogRequest(name="main"), metadata=ada)
        held = await doors.auth.GetEffectivePermissions(
            auth.GetEffectivePermissionsRequest(securable=main), metadata=ada
        )
        assert [p.privilege for p in held.privileges] == [securable_pb2.PRIVILEGE_USE_CATALOG]
        listed = await doors.auth.ListGrants(
            auth.ListGrantsRequest(securable=main, principal="ada"), metadata=ADMIN
        )
        assert len(listed.grants) == 1
        call = doors.auth.UpdateGrants(
            auth.UpdateGrantsRequest(
                securable=main,
                add=[auth.Grant(principal="ada", privilege=securable_pb2.PRIVILEGE_MANAGE)],
            ),
            metadata=ada,
        )
        reason, _ = await refused(call, grpc.StatusCode.PERMISSION_DENIED)
        assert reason == "PRIVILEGE_MISSING"

    async def test_services_ask_about_tokens_and_decisions(self, doors: Doors) -> None:
        ada = await doors.user("ada")
        digest = hashlib.sha256(ada[0][1].removeprefix("Bearer ").encode()).digest()
        known = await doors.auth.Authenticate(
            auth.AuthenticateRequest(token_sha256=digest), metadata=SERVICE
        )
        assert known.principal.name == "ada"
        assert known.expires_at.seconds > 0
        for metadata in (ada, ADMIN):
            call = doors.auth.Authenticate(
                auth.AuthenticateRequest(token_sha256=digest), metadata=metadata
            )
            await refused(call, grpc.StatusCode.PERMISSION_DENIED)
        unknown = doors.auth.Authenticate(
            auth.AuthenticateRequest(token_sha256=b"x" * 32), metadata=SERVICE
        )
        await refused(unknown, grpc.StatusCode.UNAUTHENTICATED)
        register = auth.RegisterSecurableRequest(securable=reference(8, "front"), owner="ada")
        await doors.auth.RegisterSecurable(register, metadata=SERVICE)
        decided = await doors.auth.Decide(
            auth.DecideRequest(
                principal="ada",
                questions=[
                    auth.AccessQuestion(
                        securable=reference(8, "front"),
                        privilege=securable_pb2.PRIVILEGE_EXECUTE,
                    ),
                    auth.AccessQuestion(
                        securable=reference(2, "main"),
                        privilege=securable_pb2.PRIVILEGE_USE_CATALOG,
                    ),
                ],
            ),
            metadata=SERVICE,
        )
        assert [answer.allowed for answer in decided.answers] == [True, False]
        assert decided.answers[1].missing == "USE CATALOG on catalog main"
        await doors.auth.UnregisterSecurable(
            auth.UnregisterSecurableRequest(securable=register.securable), metadata=SERVICE
        )

    async def test_principals_groups_and_tokens(self, doors: Doors) -> None:
        for name, kind in (("ada", 1), ("team", 3)):
            await doors.auth.CreatePrincipal(
                auth.CreatePrincipalRequest(
                    principal=auth.Principal(name=name, kind=kind)  # type: ignore[arg-type]
                ),
                metadata=ADMIN,
            )
        members = await doors.auth.UpdateGroupMembers(
            auth.UpdateGroupMembersRequest(group="team", add=["ada"]), metadata=ADMIN
        )
        assert list(members.members) == ["ada"]
        got = await doors.auth.GetPrincipal(auth.GetPrincipalRequest(name="ada"), metadata=ADMIN)
        assert list(got.principal.groups) == ["team"]
        listed = await doors.auth.ListPrincipals(
            auth.ListPrincipalsRequest(page_size=2), metadata=ADMIN
        )
        assert [p.name for p in listed.principals] == ["ada", "admin"]
        assert listed.next_page_token
        token = await doors.auth.CreateToken(
            auth.CreateTokenRequest(principal="ada", comment="x"), metadata=ADMIN
        )
        tokens = await doors.auth.ListTokens(
            auth.ListTokensRequest(), metadata=bearer(token.secret)
        )
        assert [t.token_id for t in tokens.tokens] == [token.token.token_id]
        await doors.auth.RevokeToken(
            auth.RevokeTokenRequest(token_id=token.token.token_id), metadata=ADMIN
        )
        gone = doors.auth.WhoAmI(auth.WhoAmIRequest(), metadata=bearer(token.secret))
        await refused(gone, grpc.StatusCode.UNAUTHENTICATED)
        await doors.auth.DeletePrincipal(auth.DeletePrincipalRequest(name="ada"), metadata=ADMIN)


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


class TestRows:
    async def test_out_and_in(self, doors: Doors) -> None:
        await doors.tree.CreateTable(tree.CreateTableRequest(table=FLIGHTS), metadata=ADMIN)
        data = arrow(pa.table({"id": [1, 2, 3], "note": ["a", None, "c"]}))
        header = rows.AppendRowsHeader(full_name=FLIGHTS.full_name, request_id="r")
        messages = [
            rows.AppendRowsRequest(header=header),
            rows.AppendRowsRequest(arrow_ipc=data[:100]),
            rows.AppendRowsRequest(arrow_ipc=data[100:]),
        ]
        for _ in range(2):
            sent = await doors.rows.AppendRows(iter(messages), metadata=ADMIN)
            assert sent.row_count == 3
        predicate = rows.Predicate(
            column="id",
            operator=rows.COMPARISON_OPERATOR_IN,
            value=Value(
                list_value=ListValue(values=[Value(number_value=1), Value(number_value=3)])
            ),
        )
        counted = await doors.rows.CountRows(
            rows.CountRowsRequest(full_name=FLIGHTS.full_name, predicates=[predicate]),
            metadata=ADMIN,
        )
        assert counted.row_count == 2
        pieces = doors.rows.ReadTable(
            rows.ReadTableRequest(
                full_name=FLIGHTS.full_name,
                columns=["note"],
                predicates=[predicate],
                order_by=["-id"],
            ),
            metadata=ADMIN,
        )
        got = b"".join([piece.arrow_ipc async for piece in pieces])
        assert pa.ipc.open_stream(got).read_all().to_pydict() == {"note": ["c", "a"]}

    async def test_wrong_rows_and_queries_are_refused_by_name(self, doors: Doors) -> None:
        await doors.tree.CreateTable(tree.CreateTableRequest(table=FLIGHTS), metadata=ADMIN)
        header = rows.AppendRowsHeader(full_name=FLIGHTS.full_name)
        messages = [
            rows.AppendRowsRequest(header=header),
            rows.AppendRowsRequest(arrow_ipc=arrow(pa.table({"id": ["x"]}))),
        ]
        call = doors.rows.AppendRows(iter(messages), metadata=ADMIN)
        found = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
        assert found == ("SCHEMA_MISMATCH", ["id"])
        predicate = rows.Predicate(
            column="id", operator=rows.COMPARISON_OPERATOR_EQUAL, value=Value(string_value="x")
        )
        count = doors.rows.CountRows(
            rows.CountRowsRequest(full_name=FLIGHTS.full_name, predicates=[predicate]),
            metadata=ADMIN,
        )
        found = await refused(count, grpc.StatusCode.INVALID_ARGUMENT)
        assert found == ("INVALID_PREDICATE", ["predicates[0].value"])


async def test_lineage(doors: Doors) -> None:
    node = lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_RUN, name="run-1")
    found = await doors.lineage.GetLineage(
        lineage.GetLineageRequest(node=node, direction=lineage.LINEAGE_DIRECTION_BOTH),
        metadata=ADMIN,
    )
    assert not found.edges
    node.name = "not a run"
    call = doors.lineage.GetLineage(
        lineage.GetLineageRequest(node=node, direction=lineage.LINEAGE_DIRECTION_BOTH),
        metadata=ADMIN,
    )
    assert (await refused(call, grpc.StatusCode.INVALID_ARGUMENT))[1] == ["node.name"]
