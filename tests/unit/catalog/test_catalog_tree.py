"""The tree: creating, reading, listing, searching, changing and deleting governed objects."""

from __future__ import annotations

import pytest

from services.catalog.domain.changes import Changes, Draft
from services.catalog.domain.principals import PrincipalKind
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import METASTORE, SecurableType
from services.catalog.errors import (
    InvalidPrincipal,
    NotEmpty,
    PrivilegeMissing,
    RequestIdReused,
    SecurableExists,
    SecurableNotFound,
    StaleEtag,
)
from services.catalog.handlers.requests import NO_REQUEST, RequestKey
from tessera_kit.errors import InvalidArgument
from tests.catalog_world import World, catalog, model, schema, table, volume


async def test_a_first_catalog_and_schema_are_there(world: World) -> None:
    admin = await world.admin()
    assert (await world.cases.tree.get(admin, catalog("main"))).owner == "admin"
    assert (await world.cases.tree.get(admin, schema("main.default"))).owner == "admin"


async def test_the_creator_owns_what_it_creates_and_it_is_told(world: World) -> None:
    ada = await world.user("ada")
    await world.grant("ada", METASTORE, Privilege.CREATE_CATALOG)
    draft = Draft("of Ada", {"team": "blue"}, owner="admin")
    made = await world.cases.tree.create(ada, catalog("lab"), draft, NO_REQUEST)
    assert (made.owner, made.comment, made.tags) == ("ada", "of Ada", {"team": "blue"})
    event = world.store.events[-1]
    assert (event.type, event.key) == ("tessera.events.v1.SecurableCreated", "lab")


async def test_administrators_may_name_another_owner(world: World) -> None:
    await world.user("ada")
    admin = await world.admin()
    made = await world.cases.tree.create(admin, catalog("lab"), Draft(owner="ada"), NO_REQUEST)
    assert made.owner == "ada"
    with pytest.raises(InvalidPrincipal):
        await world.cases.tree.create(admin, catalog("x"), Draft(owner="nobody"), NO_REQUEST)


async def test_creating_takes_the_privilege_on_the_parent(world: World) -> None:
    ada = await world.user("ada")
    with pytest.raises(PrivilegeMissing, match="CREATE CATALOG on metastore"):
        await world.make(catalog("lab"), ada)
    with pytest.raises(SecurableNotFound):  # she may not even see the catalog
        await world.make(schema("main.lab"), ada)
    await world.grant("ada", catalog("main"), Privilege.USE_CATALOG)
    with pytest.raises(PrivilegeMissing, match="CREATE SCHEMA on catalog main"):
        await world.make(schema("main.lab"), ada)
    await world.grant("ada", catalog("main"), Privilege.CREATE_SCHEMA)
    assert (await world.make(schema("main.lab"), ada)).owner == "ada"


async def test_names_are_unique_among_a_kind(world: World) -> None:
    await world.make(model("main.default.x"))
    with pytest.raises(SecurableExists):
        await world.make(model("main.default.x"))
    await world.make(volume("main.default.x"))


async def test_a_child_needs_its_parent(world: World) -> None:
    with pytest.raises(SecurableNotFound):
        await world.make(schema("nowhere.s"))
    with pytest.raises(SecurableNotFound):
        await world.make(model("main.nowhere.m"))


class TestRequestIds:
    async def test_a_repeated_request_gets_the_first_result(self, world: World) -> None:
        request = RequestKey("CreateSchema", "r1", b"same")
        first = await world.make(schema("main.a"), request=request)
        told = len(world.store.events)
        again = await world.make(schema("main.a"), request=request)
        assert again == first
        assert len(world.store.events) == told

    async def test_an_id_is_for_one_request(self, world: World) -> None:
        await world.make(schema("main.a"), request=RequestKey("CreateSchema", "r1", b"one"))
        with pytest.raises(RequestIdReused):
            await world.make(schema("main.b"), request=RequestKey("CreateSchema", "r1", b"two"))

    async def test_ids_belong_to_their_caller(self, world: World) -> None:
        ada = await world.user("ada")
        await world.grant("ada", METASTORE, Privilege.ALL_PRIVILEGES)
        request = RequestKey("CreateSchema", "r1", b"same")
        await world.make(schema("main.a"), request=request)
        with pytest.raises(SecurableExists):
            await world.make(schema("main.a"), ada, request=request)


class TestUpdates:
    async def test_only_what_was_read_is_changed(self, world: World) -> None:
        admin = await world.admin()
        first = await world.make(schema("main.a"))
        changes = Changes(comment="new", etag=first.etag)
        second = await world.cases.tree.update(admin, first.key, changes)
        assert (second.comment, second.owner) == ("new", "admin")
        assert second.etag != first.etag
        with pytest.raises(StaleEtag):
            await world.cases.tree.update(admin, first.key, changes)
        assert (await world.cases.tree.get(admin, first.key)).comment == "new"

    async def test_ownership_moves_with_its_rights(self, world: World) -> None:
        ada, admin = await world.user("ada"), await world.admin()
        await world.grant("ada", catalog("main"), Privilege.USE_CATALOG)
        await world.make(schema("main.a"))
        with pytest.raises(SecurableNotFound):
            await world.cases.tree.update(ada, schema("main.a"), Changes(comment="x"))
        await world.cases.tree.update(admin, schema("main.a"), Changes(owner="ada"))
        assert world.told()[-1] == "AccessChanged"
        await world.cases.tree.update(ada, schema("main.a"), Changes(comment="mine"))
        with pytest.raises(InvalidPrincipal):
            await world.cases.tree.update(ada, schema("main.a"), Changes(owner="nobody"))

    async def test_tags_need_apply_tag_or_management(self, world: World) -> None:
        ada = await world.user("ada")
        await world.make(schema("main.a"))
        await world.grant("ada", catalog("main"), Privilege.BROWSE, Privilege.USE_CATALOG)
        with pytest.raises(PrivilegeMissing, match="APPLY TAG"):
            await world.cases.tree.update_tags(ada, schema("main.a"), {"a": "1"}, [])
        await world.grant("ada", schema("main.a"), Privilege.APPLY_TAG)
        await world.cases.tree.update_tags(ada, schema("main.a"), {"a": "1", "b": "2"}, [])
        changed = await world.cases.tree.update_tags(ada, schema("main.a"), {"c": ""}, ["a", "x"])
        assert changed.tags == {"b": "2", "c": ""}

    async def test_tags_are_few(self, world: World) -> None:
        admin = await world.admin()
        many = {f"k{n}": "" for n in range(100)}
        await world.cases.tree.update_tags(admin, catalog("main"), many, [])
        with pytest.raises(InvalidArgument, match="100"):
            await world.cases.tree.update_tags(admin, catalog("main"), {"more": ""}, [])


class TestListing:
    async def test_shows_only_what_the_caller_may_see(self, world: World) -> None:
        ada = await world.user("ada")
        for name in ("a", "b", "c"):
            await world.make(schema(f"main.{name}"))
        await world.grant("ada", catalog("main"), Privilege.USE_CATALOG)
        listed = await world.cases.tree.children(ada, catalog("main"), SecurableType.SCHEMA, "", 9)
        assert listed.items == ()
        await world.grant("ada", schema("main.b"), Privilege.USE_SCHEMA)
        listed = await world.cases.tree.children(ada, catalog("main"), SecurableType.SCHEMA, "", 9)
        assert [entity.key.full_name for entity in listed.items] == ["main.b"]
        await world.grant("ada", catalog("main"), Privilege.BROWSE)
        listed = await world.cases.tree.children(ada, catalog("main"), SecurableType.SCHEMA, "", 9)
        assert len(listed.items) == 4

    async def test_of_an_unseen_parent_is_refused(self, world: World) -> None:
        ada = await world.user("ada")
        with pytest.raises(SecurableNotFound):
            await world.cases.tree.children(ada, catalog("main"), SecurableType.SCHEMA, "", 9)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    async def test_pages_follow_one_another_without_gaps(self, world: World, size: int) -> None:
        ada = await world.user("ada")
        await world.grant("ada", catalog("main"), Privilege.USE_CATALOG)
        expected = []
        for number in range(12):
            made = await world.make(schema(f"main.s{number:02}"))
            if number % 3:
                await world.grant("ada", made.key, Privilege.USE_SCHEMA)
                expected.append(made.key.full_name)
        found: list[str] = []
        after = ""
        for _ in range(20):
            page = await world.cases.tree.children(
                ada, catalog("main"), SecurableType.SCHEMA, after, size
            )
            assert len(page.items) <= size
            found += [entity.key.full_name for entity in page.items]
            if page.last is None:
                break
            after = page.last.key.full_name
        assert found == expected


class TestSearch:
    async def test_finds_words_in_names_comments_and_tags(self, world: World) -> None:
        admin, tree = await world.admin(), world.cases.tree
        await world.make(schema("main.flights"))
        await tree.update(admin, schema("main.flights"), Changes(comment="Departures of NYC"))
        await tree.update_tags(admin, schema("main.flights"), {"Domain": "Traffic"}, [])
        for query in ("FLIGHT", "nyc departures", "traffic main", "domain"):
            page = await tree.search(admin, query, [], ("", 0), 10)
            assert [e.key.full_name for e in page.items] == ["main.flights"], query
        assert (await tree.search(admin, "nyc boats", [], ("", 0), 10)).items == ()
        assert (await tree.search(admin, "%", [], ("", 0), 10)).items == ()

    async def test_kinds_and_visibility_narrow_it(self, world: World) -> None:
        ada, tree = await world.user("ada"), world.cases.tree
        await world.make(model("main.default.pilot"))
        await world.make(volume("main.default.pilot"))
        found = await tree.search(await world.admin(), "pilot", [SecurableType.MODEL], ("", 0), 9)
        assert [entity.key.type for entity in found.items] == [SecurableType.MODEL]
        assert (await tree.search(ada, "pilot", [], ("", 0), 9)).items == ()
        await world.grant("ada", catalog("main"), Privilege.BROWSE)
        assert len((await tree.search(ada, "pilot", [], ("", 0), 9)).items) == 2


class TestDeletion:
    async def test_refuses_what_is_not_empty(self, world: World) -> None:
        admin, removal = await world.admin(), world.cases.removal
        await world.make(schema("main.a"))
        await world.make(table("main.a.t"))
        for key in (catalog("main"), schema("main.a")):
            with pytest.raises(NotEmpty):
                await removal.delete(admin, key)
        await removal.delete(admin, catalog("main"), force=True)
        assert set(world.store.state.entities) == {METASTORE}
        assert world.engine.tables == {}
        assert world.told().count("SecurableDeleted") == 4

    async def test_of_another_state_than_was_read_is_refused(self, world: World) -> None:
        made = await world.make(schema("main.a"))
        with pytest.raises(StaleEtag):
            await world.cases.removal.delete(await world.admin(), made.key, etag="other")
        await world.cases.removal.delete(await world.admin(), made.key, etag=made.etag)
        with pytest.raises(SecurableNotFound):
            await world.cases.tree.get(await world.admin(), made.key)

    async def test_needs_management(self, world: World) -> None:
        ada = await world.user("ada")
        made = await world.make(schema("main.a"))
        await world.grant("ada", catalog("main"), Privilege.ALL_PRIVILEGES)
        with pytest.raises(PrivilegeMissing, match="MANAGE on schema main"):
            await world.cases.removal.delete(ada, made.key)
        await world.grant("ada", schema("main.a"), Privilege.MANAGE)
        await world.cases.removal.delete(ada, made.key)

    async def test_the_owner_of_a_container_deletes_what_others_made_in_it(
        self, world: World
    ) -> None:
        ada, bob = await world.user("ada"), await world.user("bob")
        await world.grant("ada", METASTORE, Privilege.CREATE_CATALOG)
        await world.make(catalog("lab"), ada)
        await world.grant("bob", catalog("lab"), Privilege.USE_CATALOG, Privilege.CREATE_SCHEMA)
        await world.make(schema("lab.bobs"), bob)
        await world.cases.removal.delete(ada, schema("lab.bobs"))

    async def test_takes_the_files_of_a_volume_along(self, world: World) -> None:
        await world.make(volume("main.default.raw"))
        await world.objects.put("volumes/main/default/raw/x.csv", b"1")
        await world.objects.put("volumes/main/default/raw2/x.csv", b"1")
        await world.cases.removal.delete(await world.admin(), volume("main.default.raw"))
        left = [info.key async for info in world.objects.list("volumes/")]
        assert left == ["volumes/main/default/raw2/x.csv"]

    async def test_grants_do_not_outlive_their_object(self, world: World) -> None:
        ada = await world.user("ada")
        await world.make(schema("main.a"))
        await world.grant("ada", catalog("main"), Privilege.USE_CATALOG)
        await world.grant("ada", schema("main.a"), Privilege.USE_SCHEMA)
        await world.cases.removal.delete(await world.admin(), schema("main.a"))
        await world.make(schema("main.a"))
        with pytest.raises(SecurableNotFound):
            await world.cases.tree.get(ada, schema("main.a"))


async def test_groups_may_own(world: World) -> None:
    ada = await world.user("ada")
    await world.group("team", "ada")
    assert (await world.cases.principals.get("team")).principal.kind is PrincipalKind.GROUP
    await world.grant("ada", catalog("main"), Privilege.USE_CATALOG)
    made = await world.make(schema("main.a"))
    await world.cases.tree.update(await world.admin(), made.key, Changes(owner="team"))
    ada = await world.caller("ada")
    await world.cases.tree.update(ada, made.key, Changes(comment="ours"))
