"""Principals, grants, rows and lineage through the catalog's gRPC doors."""

from __future__ import annotations

import hashlib

import grpc
import pyarrow as pa
from google.protobuf.struct_pb2 import ListValue, Value

from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import catalog_service_pb2 as tree
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.catalog.v1 import securable_pb2
from tessera.catalog.v1 import table_data_service_pb2 as rows
from tests.unit.catalog.doors import ADMIN, FLIGHTS, SERVICE, Doors, bearer, reference, refused


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
