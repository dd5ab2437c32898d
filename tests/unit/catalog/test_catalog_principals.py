"""Principals, groups, tokens, grants, decisions, and what is made at the first start."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.catalog.domain.principals import PrincipalKind, token_digest
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import METASTORE, SecurableKey, SecurableType
from services.catalog.errors import (
    GroupCycle,
    InvalidGrant,
    InvalidPrincipal,
    InvalidSecurable,
    NotAllowed,
    PrincipalExists,
    PrincipalNotFound,
    PrivilegeMissing,
    Protected,
    SecurableExists,
    SecurableNotFound,
    TokenNotFound,
)
from services.catalog.handlers.bootstrap import BootstrapTokens, bootstrap
from services.catalog.handlers.decisions import Question
from services.catalog.handlers.grants import GrantChange
from services.catalog.handlers.requests import NO_REQUEST, RequestKey
from tessera_kit.config import ConfigError, Secret
from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.identity import InvalidCredentials
from tests.catalog_world import (
    ADMIN_TOKEN,
    SERVICE_TOKEN,
    World,
    catalog,
    let_pass,
    model,
    schema,
    table,
)

P = Privilege
ENDPOINT = SecurableKey(SecurableType.ENDPOINT, "front")


class TestFirstStart:
    async def test_the_files_tokens_stand_for_their_principals(self, world: World) -> None:
        admin = await world.cases.tokens.authenticate(ADMIN_TOKEN)
        assert (admin.name, admin.is_admin) == ("admin", True)
        service = await world.cases.tokens.authenticate(SERVICE_TOKEN)
        assert (service.name, service.kind.value) == ("inference", "service")

    async def test_starting_again_changes_nothing(self, world: World) -> None:
        before = world.store.state.copy()
        told = len(world.store.events)
        await world.begin()
        before.revision = world.store.state.revision
        assert world.store.state == before
        assert len(world.store.events) == told

    async def test_a_changed_file_rotates_the_token(self, world: World) -> None:
        new = "tsr_00000000ffffffff_" + "c" * 43
        tokens = BootstrapTokens(Secret(new), {"inference": Secret(SERVICE_TOKEN)})
        await world.cases.tokens.authenticate(ADMIN_TOKEN)
        await bootstrap(world.store, tokens, world.clock)
        assert (await world.cases.tokens.authenticate(new)).name == "admin"
        with pytest.raises(InvalidCredentials):
            await world.cases.tokens.authenticate(ADMIN_TOKEN)
        await world.begin()  # and back
        assert (await world.cases.tokens.authenticate(ADMIN_TOKEN)).name == "admin"

    async def test_deleted_first_objects_do_not_come_back(self, world: World) -> None:
        await world.cases.removal.delete(await world.admin(), catalog("main"), force=True)
        await world.begin()
        with pytest.raises(SecurableNotFound):
            await world.cases.tree.get(await world.admin(), catalog("main"))

    @pytest.mark.parametrize("text", ["", "hunter2", "tsr_x_y", "tsr_abcd_" + "é" * 43])
    async def test_what_is_no_token_is_refused_unseen(self, world: World, text: str) -> None:
        with pytest.raises(ConfigError) as failure:
            await bootstrap(world.store, BootstrapTokens(Secret(text), {}), world.clock)
        assert not text or text not in str(failure.value)

    async def test_a_user_does_not_become_a_service(self, world: World) -> None:
        await world.user("sink")
        tokens = BootstrapTokens(Secret(ADMIN_TOKEN), {"sink": Secret("tsr_abcd_" + "d" * 43)})
        with pytest.raises(ConfigError, match="sink"):
            await bootstrap(world.store, tokens, world.clock)


class TestPrincipals:
    async def test_administrators_make_them(self, world: World) -> None:
        ada = await world.user("ada")
        with pytest.raises(NotAllowed):
            await world.cases.principals.create(ada, "b", PrincipalKind.USER, True, NO_REQUEST)
        with pytest.raises(PrincipalExists):
            await world.user("ada")
        admin = await world.admin()
        for name in ("", "a b", "a/b", "ä", "x" * 129, "a\n"):
            with pytest.raises(InvalidPrincipal):
                await world.cases.principals.create(
                    admin, name, PrincipalKind.USER, False, NO_REQUEST
                )

    async def test_programs_of_users_are_no_platform_services(self, world: World) -> None:
        admin = await world.admin()
        with pytest.raises(InvalidPrincipal):
            await world.cases.principals.create(
                admin, "bot", PrincipalKind.SERVICE, True, NO_REQUEST
            )
        bot = await world.user("bot", PrincipalKind.SERVICE)
        question = Question(METASTORE, P.BROWSE)
        with pytest.raises(NotAllowed):
            await world.cases.decisions.decide(bot, "admin", [question])
        with pytest.raises(NotAllowed):
            await world.cases.tokens.create(bot, "admin", "", None)

    async def test_requests_with_an_id_are_done_once(self, world: World) -> None:
        admin, request = await world.admin(), RequestKey("CreatePrincipal", "r", b"1")
        for _ in range(2):
            view = await world.cases.principals.create(
                admin, "ada", PrincipalKind.USER, False, request
            )
        assert view.principal.name == "ada"

    async def test_are_listed_by_name(self, world: World) -> None:
        for name in ("c", "a", "b"):
            await world.user(name)
        page = await world.cases.principals.page("", 3)
        assert [view.principal.name for view in page.items] == ["a", "admin", "b"]
        assert page.last is not None
        page = await world.cases.principals.page("b", 3)
        assert [view.principal.name for view in page.items] == ["c", "inference"]
        assert page.last is None

    async def test_go_with_all_they_hold(self, world: World) -> None:
        ada, admin = await world.user("ada"), await world.admin()
        await world.group("team", "ada")
        await let_pass(world, "team")
        await world.grant("ada", METASTORE, P.CREATE_CATALOG)
        await world.make(catalog("lab"), ada)
        secret = (await world.cases.tokens.create(ada, "", "", None)).secret.reveal()
        await world.cases.tokens.authenticate(secret)
        await world.cases.principals.delete(admin, "ada")
        with pytest.raises(InvalidCredentials):
            await world.cases.tokens.authenticate(secret)
        assert (await world.cases.tree.get(admin, catalog("lab"))).owner == "admin"
        again = await world.user("ada")
        assert again.groups == frozenset()
        with pytest.raises(PrivilegeMissing):
            await world.make(catalog("more"), again)

    async def test_the_installations_own_stay(self, world: World) -> None:
        admin = await world.admin()
        for name in ("admin", "inference"):
            with pytest.raises(Protected):
                await world.cases.principals.delete(admin, name)
        with pytest.raises(PrincipalNotFound):
            await world.cases.principals.delete(admin, "nobody")


class TestGroups:
    async def test_nest(self, world: World) -> None:
        await world.user("ada")
        await world.group("inner", "ada")
        await world.group("outer", "inner")
        assert (await world.caller("ada")).groups == {"inner", "outer"}
        await world.grant("outer", catalog("main"), P.USE_CATALOG)
        await world.cases.tree.get(await world.caller("ada"), catalog("main"))
        await world.cases.principals.update_members(await world.admin(), "outer", [], ["inner"])
        assert (await world.caller("ada")).groups == {"inner"}

    async def test_cannot_contain_themselves(self, world: World) -> None:
        admin = await world.admin()
        for name in ("a", "b", "c"):
            await world.group(name)
        update = world.cases.principals.update_members
        await update(admin, "a", ["b"], [])
        await update(admin, "b", ["c"], [])
        for group, member in (("a", "a"), ("b", "a"), ("c", "a")):
            with pytest.raises(GroupCycle):
                await update(admin, group, [member], [])
        assert (await world.caller("a")).groups == frozenset()

    async def test_have_existing_members_and_are_groups(self, world: World) -> None:
        admin = await world.admin()
        await world.group("team")
        with pytest.raises(PrincipalNotFound):
            await world.cases.principals.update_members(admin, "team", ["nobody"], [])
        with pytest.raises(PrincipalNotFound):
            await world.cases.principals.update_members(admin, "none", [], [])
        with pytest.raises(InvalidPrincipal):
            await world.cases.principals.update_members(admin, "admin", [], [])


class TestTokens:
    async def test_are_kept_as_digests(self, world: World) -> None:
        ada = await world.user("ada")
        new = await world.cases.tokens.create(ada, "", "laptop", timedelta(hours=1))
        text = new.secret.reveal()
        assert text.startswith(f"tsr_{new.token.token_id}_")
        assert text not in repr(new)
        assert new.token.sha256 == token_digest(text)
        assert text.encode() not in repr(world.store.state).encode()
        assert (await world.cases.tokens.authenticate(text)).name == "ada"

    async def test_end(self, world: World) -> None:
        ada = await world.user("ada")
        new = await world.cases.tokens.create(ada, "", "", timedelta(hours=1))
        await world.cases.tokens.authenticate(new.secret.reveal())
        world.clock.advance(3600)
        with pytest.raises(InvalidCredentials):
            await world.cases.tokens.authenticate(new.secret.reveal())

    async def test_are_revoked_at_once_by_their_owner_or_an_administrator(
        self, world: World
    ) -> None:
        ada, bob = await world.user("ada"), await world.user("bob")
        tokens = world.cases.tokens
        new = await tokens.create(ada, "", "", None)
        await tokens.authenticate(new.secret.reveal())
        with pytest.raises(TokenNotFound):
            await tokens.revoke(bob, new.token.token_id)
        await tokens.revoke(ada, new.token.token_id)
        with pytest.raises(InvalidCredentials):
            await tokens.authenticate(new.secret.reveal())
        told = len(world.store.events)
        await tokens.revoke(await world.admin(), new.token.token_id)
        assert len(world.store.events) == told

    @pytest.mark.parametrize("seconds", [0, -1, 731 * 86_400])
    async def test_have_a_sensible_lifetime(self, world: World, seconds: int) -> None:
        with pytest.raises(InvalidArgument):
            await world.cases.tokens.create(await world.admin(), "", "", timedelta(seconds=seconds))

    async def test_for_others_are_made_by_administrators_and_services(self, world: World) -> None:
        ada = await world.user("ada")
        await world.group("team")
        tokens = world.cases.tokens
        for maker in (await world.admin(), await world.service()):
            new = await tokens.create(maker, "ada", "job", timedelta(hours=1))
            assert (await tokens.authenticate(new.secret.reveal())).name == "ada"
        with pytest.raises(NotAllowed):
            await tokens.create(ada, "admin", "", None)
        with pytest.raises(NotAllowed):
            await tokens.page(ada, "admin", None, 10)
        with pytest.raises(InvalidPrincipal):
            await tokens.create(await world.admin(), "team", "", None)
        with pytest.raises(PrincipalNotFound):
            await tokens.create(await world.admin(), "nobody", "", None)
        assert len((await tokens.page(ada, "", None, 10)).items) == 2

    @pytest.mark.parametrize("token", ["", "x", ADMIN_TOKEN + "x", ADMIN_TOKEN[:-1], "\ud800"])
    async def test_others_are_unknown(self, world: World, token: str) -> None:
        with pytest.raises(InvalidCredentials):
            await world.cases.tokens.authenticate(token)


class TestGrants:
    async def test_need_management_of_the_object(self, world: World) -> None:
        ada = await world.user("ada")
        await world.grant("ada", catalog("main"), P.ALL_PRIVILEGES)
        change = [GrantChange("ada", P.MANAGE)]
        with pytest.raises(PrivilegeMissing, match="MANAGE"):
            await world.cases.grants.update(ada, catalog("main"), change, [])
        await world.grant("ada", catalog("main"), P.MANAGE)
        await world.user("bob")
        change = [GrantChange("bob", P.USE_CATALOG)]
        found = await world.cases.grants.update(ada, catalog("main"), change, [])
        assert [(g.principal, g.privilege, g.granted_by) for g in found] == [
            ("ada", P.ALL_PRIVILEGES, "admin"),
            ("ada", P.MANAGE, "admin"),
            ("bob", P.USE_CATALOG, "ada"),
        ]

    async def test_apply_to_the_kind_and_to_somebody(self, world: World) -> None:
        admin = await world.admin()
        await world.make(model("main.default.m"))
        with pytest.raises(InvalidGrant) as failure:
            await world.cases.grants.update(
                admin, model("main.default.m"), [GrantChange("admin", P.SELECT)], []
            )
        assert failure.value.violations[0].field == "add[0].privilege"
        with pytest.raises(PrincipalNotFound):
            await world.cases.grants.update(
                admin, catalog("main"), [GrantChange("nobody", P.BROWSE)], []
            )

    async def test_all_privileges_alone_is_shown_and_takes_the_others_with_it(
        self, world: World
    ) -> None:
        ada, admin = await world.user("ada"), await world.admin()
        main = catalog("main")
        await world.grant("ada", main, P.SELECT, P.MANAGE, P.ALL_PRIVILEGES)
        page = await world.cases.grants.page(admin, main, "ada", ("", 0), 10)
        assert [grant.privilege for grant in page.items] == [P.ALL_PRIVILEGES, P.MANAGE]
        await world.revoke("ada", main, P.ALL_PRIVILEGES)
        page = await world.cases.grants.page(admin, main, "", ("", 0), 10)
        assert [grant.privilege for grant in page.items] == [P.MANAGE]
        assert not await world.cases.decisions._context.guard.holds(ada, main, P.SELECT)

    async def test_take_effect_at_once_both_ways(self, world: World) -> None:
        ada = await world.user("ada")
        await world.make(table("main.default.t"))
        await let_pass(world, "ada")
        service = await world.service()
        question = [Question(table("main.default.t"), P.SELECT)]
        for granted in (False, True, False):
            if granted:
                await world.grant("ada", schema("main.default"), P.SELECT)
            elif world.told()[-1] == "AccessChanged":
                await world.revoke("ada", schema("main.default"), P.SELECT)
            answers = await world.cases.decisions.decide(service, ada.name, question)
            assert answers[0].allowed is granted
            assert bool(answers[0].missing) is not granted

    async def test_others_grants_are_shown_to_managers_only(self, world: World) -> None:
        ada = await world.user("ada")
        await world.user("bob")
        await world.group("team", "ada")
        ada = await world.caller("ada")
        await world.grant("bob", catalog("main"), P.USE_CATALOG)
        await world.grant("team", catalog("main"), P.BROWSE)
        page = await world.cases.grants.page(ada, catalog("main"), "", ("", 0), 10)
        assert [grant.principal for grant in page.items] == ["team"]
        effective = await world.cases.grants.effective(ada, catalog("main"), "")
        assert [(held.privilege, held.through) for held in effective] == [(P.BROWSE, "team")]
        with pytest.raises(PrivilegeMissing):
            await world.cases.grants.effective(ada, catalog("main"), "bob")

    async def test_are_paged(self, world: World) -> None:
        await world.user("ada")
        await world.grant("ada", catalog("main"), P.USE_CATALOG, P.BROWSE, P.SELECT)
        found: list[Privilege] = []
        after = ("", 0)
        for _ in range(5):
            page = await world.cases.grants.page(await world.admin(), catalog("main"), "", after, 1)
            found += [grant.privilege for grant in page.items]
            if page.last is None:
                break
            after = (page.last.principal, int(page.last.privilege))
        assert found == [P.BROWSE, P.USE_CATALOG, P.SELECT]


class TestServices:
    async def test_register_what_they_own(self, world: World) -> None:
        ada, service, decisions = (
            await world.user("ada"),
            await world.service(),
            world.cases.decisions,
        )
        for comment in ("", "", "better"):
            await decisions.register(service, ENDPOINT, "ada", comment)
        answers = await decisions.decide(service, "ada", [Question(ENDPOINT, P.MANAGE)])
        assert answers[0].allowed
        assert (await world.cases.tree.get(ada, ENDPOINT)).comment == "better"
        with pytest.raises(SecurableExists):
            await decisions.register(service, ENDPOINT, "admin", "")
        with pytest.raises(PrincipalNotFound):
            await decisions.register(service, ENDPOINT, "nobody", "")
        for _ in range(2):
            await decisions.unregister(service, ENDPOINT)
        answers = await decisions.decide(service, "admin", [Question(ENDPOINT, P.EXECUTE)])
        assert not answers[0].allowed
        assert answers[0].missing == "there is no endpoint front"

    async def test_only_they_may(self, world: World) -> None:
        admin, decisions = await world.admin(), world.cases.decisions
        for call in (
            decisions.register(admin, ENDPOINT, "admin", ""),
            decisions.unregister(admin, ENDPOINT),
            decisions.decide(admin, "admin", [Question(ENDPOINT, P.EXECUTE)]),
        ):
            with pytest.raises(NotAllowed):
                await call

    async def test_tables_and_the_like_are_not_theirs(self, world: World) -> None:
        service = await world.service()
        for key in (table("main.default.t"), catalog("main"), METASTORE):
            with pytest.raises(InvalidSecurable):
                await world.cases.decisions.register(service, key, "admin", "")
            with pytest.raises(InvalidSecurable):
                await world.cases.decisions.unregister(service, key)

    async def test_are_answered_in_order(self, world: World) -> None:
        await world.user("ada")
        await world.grant("ada", catalog("main"), P.USE_CATALOG)
        questions = [
            Question(catalog("main"), P.USE_CATALOG),
            Question(schema("main.default"), P.USE_SCHEMA),
            Question(table("main.default.none"), P.SELECT),
        ]
        answers = await world.cases.decisions.decide(await world.service(), "ada", questions)
        assert [answer.allowed for answer in answers] == [True, False, False]
        with pytest.raises(PrincipalNotFound):
            await world.cases.decisions.decide(await world.service(), "nobody", questions)
