"""The rules of access, one by one, on chains made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from services.catalog.domain.access import AccessNode, Subject, decide, effective, visible
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import SecurableKey, SecurableType

P, T = Privilege, SecurableType
TABLE = SecurableKey(T.TABLE, "c.s.t")
SCHEMA, CATALOG, METASTORE = TABLE.chain[1:]
MODEL = SecurableKey(T.MODEL, "c.s.m")
ENDPOINT = SecurableKey(T.ENDPOINT, "front")

Grants = Mapping[SecurableKey, Mapping[str, set[Privilege]]]


def chain(
    key: SecurableKey = TABLE,
    grants: Grants | None = None,
    owners: Mapping[SecurableKey, str] | None = None,
) -> tuple[AccessNode, ...]:
    return tuple(
        AccessNode(
            part,
            (owners or {}).get(part, "root"),
            {who: frozenset(what) for who, what in (grants or {}).get(part, {}).items()},
        )
        for part in key.chain
    )


ADA = Subject("ada", frozenset())
USES: Grants = {CATALOG: {"ada": {P.USE_CATALOG}}, SCHEMA: {"ada": {P.USE_SCHEMA}}}
READS: Grants = {**USES, TABLE: {"ada": {P.SELECT}}}


def test_nothing_is_allowed_by_default() -> None:
    decision = decide(ADA, chain(), P.SELECT)
    assert not decision
    assert decision.missing == (
        (P.USE_SCHEMA, SCHEMA),
        (P.USE_CATALOG, CATALOG),
        (P.SELECT, TABLE),
    )
    expected = "USE SCHEMA on schema c.s, USE CATALOG on catalog c, SELECT on table c.s.t"
    assert decision.text == expected


def test_reading_takes_select_and_both_uses() -> None:
    assert decide(ADA, chain(grants=READS), P.SELECT)


@pytest.mark.parametrize("left_out", [CATALOG, SCHEMA, TABLE])
def test_any_one_missing_denies(left_out: SecurableKey) -> None:
    grants = {key: held for key, held in READS.items() if key != left_out}
    decision = decide(ADA, chain(grants=grants), P.SELECT)
    assert [key for _, key in decision.missing] == [left_out]


def test_using_a_model_takes_execute_and_both_uses() -> None:
    assert decide(ADA, chain(MODEL, {**USES, MODEL: {"ada": {P.EXECUTE}}}), P.EXECUTE)
    assert not decide(ADA, chain(MODEL, {MODEL: {"ada": {P.EXECUTE}}}), P.EXECUTE)


@pytest.mark.parametrize("container", [SCHEMA, CATALOG, METASTORE])
def test_a_grant_on_a_container_reaches_what_it_holds(container: SecurableKey) -> None:
    granted = {P.SELECT, P.USE_CATALOG, P.USE_SCHEMA}
    grants = {**USES, container: {"ada": granted}}
    assert decide(ADA, chain(grants=grants), P.SELECT)


def test_a_grant_on_a_child_does_not_reach_its_container() -> None:
    grants = {**USES, TABLE: {"ada": {P.APPLY_TAG}}}
    assert not decide(ADA, chain(SCHEMA, grants), P.APPLY_TAG)


def test_groups_hold_for_their_members() -> None:
    grants: Grants = {
        CATALOG: {"all": {P.USE_CATALOG}},
        SCHEMA: {"team": {P.USE_SCHEMA}},
        TABLE: {"team": {P.SELECT}},
    }
    member = Subject("ada", frozenset({"team", "all"}))
    assert decide(member, chain(grants=grants), P.SELECT)
    assert not decide(Subject("ada", frozenset({"team"})), chain(grants=grants), P.SELECT)


def test_administrators_may_do_everything() -> None:
    root = Subject("someone", frozenset(), is_admin=True)
    assert all(decide(root, chain(), privilege) for privilege in P)


class TestAllPrivileges:
    GRANTS: ClassVar[Grants] = {CATALOG: {"ada": {P.ALL_PRIVILEGES}}}

    @pytest.mark.parametrize("privilege", sorted(set(P) - {P.MANAGE}))
    def test_stands_for_every_other_when_checked(self, privilege: Privilege) -> None:
        assert decide(ADA, chain(grants=self.GRANTS), privilege)

    def test_does_not_stand_for_manage(self) -> None:
        decision = decide(ADA, chain(grants=self.GRANTS), P.MANAGE)
        assert decision.missing == ((P.MANAGE, TABLE),)


class TestOwnership:
    def test_an_owner_holds_everything_on_what_it_owns(self) -> None:
        owned = chain(grants=USES, owners={TABLE: "ada"})
        assert all(decide(ADA, owned, privilege) for privilege in P)

    def test_an_owner_needs_use_on_the_parents(self) -> None:
        decision = decide(ADA, chain(owners={TABLE: "ada"}), P.SELECT)
        assert {privilege for privilege, _ in decision.missing} == {P.USE_SCHEMA, P.USE_CATALOG}

    def test_a_group_may_own(self) -> None:
        member = Subject("ada", frozenset({"team"}))
        assert decide(member, chain(grants=USES, owners={TABLE: "team"}), P.MODIFY)

    @pytest.mark.parametrize("container", [SCHEMA, CATALOG, METASTORE])
    def test_is_not_inherited_but_lets_manage_the_children(self, container: SecurableKey) -> None:
        owned = chain(owners={container: "ada"})
        if container is not SCHEMA:  # the owner of a schema needs its catalog's USE like anybody
            assert decide(ADA, owned, P.MANAGE)
        assert not decide(ADA, chain(grants=USES, owners={container: "ada"}), P.SELECT)
        assert decide(ADA, chain(grants=USES, owners={container: "ada"}), P.MANAGE)

    def test_an_owner_of_a_container_passes_it(self) -> None:
        grants: Grants = {CATALOG: {"ada": {P.USE_CATALOG}}, TABLE: {"ada": {P.SELECT}}}
        assert decide(ADA, chain(grants=grants, owners={SCHEMA: "ada"}), P.SELECT)


class TestManage:
    def test_is_inherited_and_needs_use_on_the_parents(self) -> None:
        manages: Grants = {CATALOG: {"ada": {P.MANAGE}}}
        assert not decide(ADA, chain(grants=manages), P.MANAGE)
        both = {**USES, CATALOG: {"ada": {P.MANAGE, P.USE_CATALOG}}}
        assert decide(ADA, chain(grants=both), P.MANAGE)

    def test_is_not_the_right_to_read(self) -> None:
        grants = {**USES, TABLE: {"ada": {P.MANAGE}}}
        assert not decide(ADA, chain(grants=grants), P.SELECT)


class TestBrowse:
    def test_shows_without_any_use(self) -> None:
        browsing = chain(grants={CATALOG: {"ada": {P.BROWSE}}})
        assert decide(ADA, browsing, P.BROWSE)
        assert visible(ADA, browsing)

    def test_is_never_the_right_to_read(self) -> None:
        grants: Grants = {**USES, CATALOG: {"ada": {P.BROWSE, P.USE_CATALOG}}}
        assert not decide(ADA, chain(grants=grants), P.SELECT)

    def test_what_may_be_used_may_be_seen(self) -> None:
        assert visible(ADA, chain(grants=READS))
        assert not visible(ADA, chain(grants={TABLE: {"ada": {P.SELECT}}}))

    def test_use_of_the_parents_alone_shows_no_child(self) -> None:
        assert visible(ADA, chain(SCHEMA, USES))
        assert not visible(ADA, chain(TABLE, USES))

    @pytest.mark.parametrize("owned", [TABLE, SCHEMA, CATALOG])
    def test_owners_see_what_they_and_their_containers_hold(self, owned: SecurableKey) -> None:
        assert visible(ADA, chain(owners={owned: "ada"}))


class TestCreation:
    def test_needs_the_containers_own_use(self) -> None:
        creates: Grants = {SCHEMA: {"ada": {P.CREATE_TABLE}}, CATALOG: USES[CATALOG]}
        decision = decide(ADA, chain(SCHEMA, creates), P.CREATE_TABLE)
        assert decision.missing == ((P.USE_SCHEMA, SCHEMA),)
        creates = {**creates, SCHEMA: {"ada": {P.CREATE_TABLE, P.USE_SCHEMA}}}
        assert decide(ADA, chain(SCHEMA, creates), P.CREATE_TABLE)

    def test_owners_of_the_container_may_create_in_it(self) -> None:
        grants: Grants = {CATALOG: {"ada": {P.USE_CATALOG}}}
        assert decide(ADA, chain(SCHEMA, grants, {SCHEMA: "ada"}), P.CREATE_MODEL)

    def test_of_flat_objects_needs_the_metastore_alone(self) -> None:
        grants: Grants = {METASTORE: {"ada": {P.CREATE_ENDPOINT}}}
        assert decide(ADA, chain(METASTORE, grants), P.CREATE_ENDPOINT)


def test_flat_objects_have_no_gates() -> None:
    assert decide(ADA, chain(ENDPOINT, {ENDPOINT: {"ada": {P.EXECUTE}}}), P.EXECUTE)


class TestEffective:
    def test_says_from_where_each_privilege_comes(self) -> None:
        member = Subject("ada", frozenset({"team"}))
        grants: Grants = {
            TABLE: {"ada": {P.SELECT}},
            SCHEMA: {"team": {P.MODIFY, P.CREATE_TABLE}},
            CATALOG: {"ada": {P.MANAGE}},
        }
        found = {
            (held.privilege, held.through, held.inherited_from)
            for held in effective(member, chain(grants=grants))
        }
        assert found == {
            (P.SELECT, "ada", None),
            (P.MODIFY, "team", SCHEMA),
            (P.MANAGE, "ada", CATALOG),
        }

    def test_all_privileges_is_listed_with_what_it_stands_for(self) -> None:
        found = effective(ADA, chain(grants={CATALOG: {"ada": {P.ALL_PRIVILEGES}}}))
        assert {held.privilege for held in found} == {
            P.ALL_PRIVILEGES, P.BROWSE, P.SELECT, P.MODIFY, P.APPLY_TAG,
        }  # fmt: skip
        assert {held.inherited_from for held in found} == {CATALOG}

    def test_ownership_is_told_apart(self) -> None:
        own = effective(ADA, chain(owners={TABLE: "ada"}))
        assert P.MANAGE in {held.privilege for held in own}
        assert all(held.by_ownership and held.inherited_from is None for held in own)
        above = effective(ADA, chain(owners={SCHEMA: "ada"}))
        assert [(held.privilege, held.by_ownership) for held in above] == [(P.MANAGE, True)]
