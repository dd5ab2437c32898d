"""One body over both stores of the catalog: who may do what, what comes of what, requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.catalog.domain.lineage import LineageEdge, LineageNode, NodeType
from services.catalog.domain.principals import Grant, Principal, PrincipalKind, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import METASTORE, EntityState, SecurableKey
from services.catalog.ports import RequestRecord, Store
from tests.catalog_store import NOW, STORES, T, entity, opened_store, people, put


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


class TestAccess:
    async def test_principals_members_and_tokens(self, store: Store) -> None:
        ada = Principal("ada", PrincipalKind.USER, NOW, is_admin=True)
        team = Principal("team", PrincipalKind.GROUP, NOW, protected=True)
        token = Token("t1", "ada", b"\0" * 32, "x", NOW, NOW, bootstrap=True)
        async with store.write() as tx:
            await tx.access.put_principal(ada)
            await tx.access.put_principal(team)
            for _ in range(2):
                await tx.access.add_member("team", "ada")
            await tx.access.put_token(token)
            await tx.access.put_token(replace(token, token_id="t2", sha256=b"\1" * 32))
            await tx.access.put_token(replace(token, revoked=True, expires_at=None))
            await tx.commit()
        async with store.read() as tx:
            assert await tx.access.principal("ada") == ada
            assert await tx.access.principal("bob") is None
            assert await tx.access.principals(after="ada", limit=9) == [team]
            assert await tx.access.existing(["ada", "bob"]) == {"ada"}
            assert await tx.access.memberships() == {"ada": {"team"}}
            assert await tx.access.members("team") == ["ada"]
            assert await tx.access.token("t1") == replace(token, revoked=True, expires_at=None)
            found = await tx.access.token_by_digest(b"\1" * 32)
            assert found is not None
            assert found.token_id == "t2"
            pages = [await tx.access.tokens("ada", below=below, limit=1) for below in (None, "t2")]
            assert [[t.token_id for t in page] for page in pages] == [["t2"], ["t1"]]
            assert len(await tx.access.bootstrap_tokens("ada")) == 2
        async with store.write() as tx:
            await tx.access.remove_principal("ada")
            await tx.commit()
        async with store.read() as tx:
            assert await tx.access.memberships() == {}
            assert await tx.access.token("t1") is None

    async def test_grants_make_the_nodes_of_decisions(self, store: Store) -> None:
        catalog, gone = entity(T.CATALOG, "c"), entity(T.CATALOG, "g", state=EntityState.DELETING)
        await put(store, catalog, gone, entity(T.ENDPOINT, "c"))
        await people(store, "ada", "bob")

        def grant(who: str, privilege: Privilege, by: str = "admin") -> Grant:
            return Grant(catalog.key, who, privilege, by, NOW)

        async with store.write() as tx:
            await tx.access.add_grant(catalog, grant("bob", Privilege.SELECT))
            await tx.access.add_grant(catalog, grant("ada", Privilege.USE_CATALOG))
            await tx.access.add_grant(catalog, grant("ada", Privilege.BROWSE))
            await tx.access.add_grant(catalog, grant("ada", Privilege.BROWSE, "other"))
            await tx.commit()
        async with store.read() as tx:
            assert await tx.access.grants(catalog.key) == [
                grant("ada", Privilege.BROWSE),
                grant("ada", Privilege.USE_CATALOG),
                grant("bob", Privilege.SELECT),
            ]
            keys = [catalog.key, gone.key, SecurableKey(T.ENDPOINT, "c"), METASTORE]
            nodes = await tx.access.nodes(keys)
            assert set(nodes) == {catalog.key, SecurableKey(T.ENDPOINT, "c")}
            assert nodes[catalog.key].owner == "admin"
            assert nodes[catalog.key].grants == {
                "ada": {Privilege.BROWSE, Privilege.USE_CATALOG},
                "bob": {Privilege.SELECT},
            }
        async with store.write() as tx:
            assert await tx.access.remove_grant(catalog, "ada", Privilege.BROWSE)
            assert not await tx.access.remove_grant(catalog, "ada", Privilege.BROWSE)
            await tx.access.remove_principal("bob")
            await tx.commit()
        async with store.read() as tx:
            assert await tx.access.grants(catalog.key) == [grant("ada", Privilege.USE_CATALOG)]
        async with store.write() as tx:
            await tx.entities.remove(catalog)
            again = entity(T.CATALOG, "c")
            await tx.entities.add(again)
            await tx.commit()
        async with store.read() as tx:
            assert await tx.access.grants(catalog.key) == []

    async def test_many_nodes_are_found_at_once(self, store: Store) -> None:
        made = [entity(T.JOB, f"job-{number:04}") for number in range(900)]
        await put(store, *made)
        async with store.read() as tx:
            assert len(await tx.access.nodes([one.key for one in made])) == 900


class TestLineage:
    async def test_edges_are_a_set_with_their_latest_time(self, store: Store) -> None:
        run, other = LineageNode(NodeType.RUN, "r"), LineageNode(NodeType.RUN, "o")
        table = LineageNode(NodeType.TABLE, "a.b.c")
        late = NOW + timedelta(hours=1)
        async with store.write() as tx:
            await tx.lineage.put([LineageEdge(table, run, NOW, "eve", "v1")])
            await tx.lineage.put([LineageEdge(table, run, late, "ada", "v2")])
            await tx.lineage.put([LineageEdge(table, run, NOW, "bob", "v0")])
            await tx.lineage.put([LineageEdge(table, other, NOW, "")])
            await tx.lineage.put([])
            await tx.commit()
        async with store.read() as tx:
            out = await tx.lineage.touching([table], upstream=False, limit=9)
            assert out == [
                LineageEdge(table, run, late, "ada", "v2"),
                LineageEdge(table, other, NOW, ""),
            ]
            assert await tx.lineage.touching([table], upstream=True, limit=9) == []
            assert await tx.lineage.touching([table], upstream=False, limit=1) == out[:1]
            into = await tx.lineage.touching([run, other], upstream=True, limit=9)
            assert into == out

    async def test_a_model_s_edges_are_found_and_removed(self, store: Store) -> None:
        run = LineageNode(NodeType.RUN, "r")
        of, longer = (
            LineageNode(NodeType.MODEL_VERSION, name) for name in ("a.b.m/1", "a.b.m-x/1")
        )
        front = LineageNode(NodeType.ENDPOINT, "front")
        edges = [LineageEdge(run, of, NOW), LineageEdge(of, front, NOW)]
        async with store.write() as tx:
            await tx.lineage.put([*edges, LineageEdge(run, longer, NOW)])
            found = await tx.lineage.of_model("a.b.m")
            assert sorted(found, key=lambda edge: edge.source) == edges
            await tx.lineage.remove([*edges, LineageEdge(longer, front, NOW)])
            await tx.lineage.remove([])
            assert await tx.lineage.of_model("a.b.m") == []
            assert len(await tx.lineage.of_model("a.b.m-x")) == 1


async def test_requests_are_kept_for_a_while(store: Store) -> None:
    record = RequestRecord("ada", "M", "r", b"\0\1", "result", NOW)
    async with store.write() as tx:
        await tx.requests.put(record)
        await tx.requests.put(replace(record, method="N"))
        await tx.requests.put(replace(record, method="N", created_at=NOW + timedelta(days=1)))
        await tx.commit()
    async with store.write() as tx:
        assert await tx.requests.get("ada", "M", "r") == record
        assert await tx.requests.get("bob", "M", "r") is None
        await tx.requests.forget(NOW + timedelta(hours=1))
        await tx.commit()
    async with store.read() as tx:
        assert await tx.requests.get("ada", "M", "r") is None
        assert await tx.requests.get("ada", "N", "r") is not None
