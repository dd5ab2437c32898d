"""Access decisions against a second, plain statement of the rules, on random trees and grants."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.catalog.domain.access import AccessNode, Subject, decide, effective, visible
from services.catalog.domain.principals import closure
from services.catalog.domain.privileges import RELEVANT, Privilege
from services.catalog.domain.securables import SecurableKey, SecurableType

P, T = Privilege, SecurableType
LEAVES = [
    SecurableKey(T.TABLE, "c.s.x"),
    SecurableKey(T.MODEL, "c.s.x"),
    SecurableKey(T.VOLUME, "c.s.x"),
    SecurableKey(T.SCHEMA, "c.s"),
    SecurableKey(T.CATALOG, "c"),
    SecurableKey(T.ENDPOINT, "e"),
    SecurableKey(T.METASTORE, "metastore"),
]
NAMES = ["ada", "bob", "team", "all"]

privileges = st.sampled_from(sorted(P))
grants = st.dictionaries(st.sampled_from(NAMES), st.frozensets(privileges, max_size=4), max_size=3)
subjects = st.builds(
    Subject,
    st.just("ada"),
    st.frozensets(st.sampled_from(["team", "all"])),
    st.just(False),
)


@st.composite
def chains(draw: st.DrawFn) -> tuple[AccessNode, ...]:
    leaf = draw(st.sampled_from(LEAVES))
    owners = st.sampled_from(["root", *NAMES])
    return tuple(AccessNode(key, draw(owners), draw(grants)) for key in leaf.chain)


@dataclass
class Plain:
    """The rules said again, one grant at a time."""

    subject: Subject
    chain: tuple[AccessNode, ...]

    def me(self, name: str) -> bool:
        return name == self.subject.name or name in self.subject.groups

    def owns(self, depth: int) -> bool:
        return self.me(self.chain[depth].owner)

    def owns_from(self, depth: int) -> bool:
        return any(self.owns(d) for d in range(depth, len(self.chain)))

    def granted(self, privilege: P, depth: int) -> bool:
        for node in self.chain[depth:]:
            for name, held in node.grants.items():
                if self.me(name) and privilege in held:
                    return True
                if self.me(name) and P.ALL_PRIVILEGES in held and privilege is not P.MANAGE:
                    return True
        return False

    def has(self, privilege: P, depth: int) -> bool:
        if self.owns(depth) or self.granted(privilege, depth):
            return True
        return privilege is P.MANAGE and self.owns_from(depth)

    def passes(self, privilege: P, first: int) -> bool:
        for depth in range(first, len(self.chain)):
            kind = self.chain[depth].key.type
            if kind is T.SCHEMA and not self.through(privilege, P.USE_SCHEMA, depth):
                return False
            if kind is T.CATALOG and not self.through(privilege, P.USE_CATALOG, depth):
                return False
        return True

    def through(self, privilege: P, use: P, depth: int) -> bool:
        if privilege is P.MANAGE and self.owns_from(depth):
            return True
        return self.has(use, depth)

    def may(self, privilege: P) -> bool:
        if privilege is P.BROWSE:
            return self.sees()
        inside = privilege.name.startswith("CREATE_") and privilege not in {
            P.CREATE_MODEL_VERSION, P.CREATE_CATALOG, P.CREATE_ENDPOINT, P.CREATE_EXPERIMENT,
            P.CREATE_JOB, P.CREATE_MONITOR,
        }  # fmt: skip
        return self.has(privilege, 0) and self.passes(privilege, 0 if inside else 1)

    def sees(self) -> bool:
        kind = self.chain[0].key.type
        if kind is T.METASTORE or self.owns_from(0) or self.granted(P.BROWSE, 0):
            return True
        some = any(self.granted(one, 0) for one in RELEVANT[kind])
        return some and self.passes(P.MANAGE, 1)


@given(subjects, chains(), privileges)
def test_decisions_are_those_of_the_plain_rules(
    subject: Subject, chain: tuple[AccessNode, ...], privilege: Privilege
) -> None:
    plain = Plain(subject, chain)
    assert bool(decide(subject, chain, privilege)) is plain.may(privilege)
    assert visible(subject, chain) is plain.sees()


@given(subjects, chains(), privileges, st.sampled_from(NAMES), st.integers(0, 3), privileges)
def test_a_further_grant_never_takes_anything_away(
    subject: Subject,
    chain: tuple[AccessNode, ...],
    privilege: Privilege,
    to: str,
    depth: int,
    more: Privilege,
) -> None:
    depth %= len(chain)
    node = chain[depth]
    wider = AccessNode(
        node.key, node.owner, {**node.grants, to: node.grants.get(to, frozenset()) | {more}}
    )
    after = (*chain[:depth], wider, *chain[depth + 1 :])
    if decide(subject, chain, privilege):
        assert decide(subject, after, privilege)
    if visible(subject, chain):
        assert visible(subject, after)


@given(subjects, chains(), privileges)
def test_what_is_missing_is_what_would_help(
    subject: Subject, chain: tuple[AccessNode, ...], privilege: Privilege
) -> None:
    decision = decide(subject, chain, privilege)
    extra = dict.fromkeys((key for _, key in decision.missing), frozenset[Privilege]())
    for wanted, key in decision.missing:
        extra[key] = extra[key] | {wanted}
    after = tuple(
        AccessNode(
            node.key,
            node.owner,
            {
                **node.grants,
                subject.name: node.grants.get(subject.name, frozenset())
                | extra.get(node.key, frozenset()),
            },
        )
        for node in chain
    )
    assert decide(subject, after, privilege)


@given(subjects, chains())
def test_effective_privileges_are_those_that_decisions_find(
    subject: Subject, chain: tuple[AccessNode, ...]
) -> None:
    plain = Plain(subject, chain)
    listed = effective(subject, chain)
    held = {one.privilege for one in listed}
    for privilege in RELEVANT[chain[0].key.type] - {P.ALL_PRIVILEGES}:
        assert (privilege in held) is plain.has(privilege, 0)
    for one in listed:
        assert plain.me(one.through)
        assert one.inherited_from is None or one.inherited_from in chain[0].key.chain[1:]
        if not one.by_ownership:
            origin = one.inherited_from or chain[0].key
            node = next(node for node in chain if node.key == origin)
            assert node.grants[one.through] & {one.privilege, P.ALL_PRIVILEGES}


edges = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=20)


@given(edges, st.sampled_from("abcdef"))
def test_membership_is_the_transitive_closure(pairs: list[tuple[str, str]], name: str) -> None:
    parents: dict[str, set[str]] = {}
    for group, member in pairs:
        parents.setdefault(member, set()).add(group)
    found = closure(name, parents)
    assert found >= parents.get(name, set())
    assert all(parents.get(group, set()) <= found for group in found)
    reached: set[str] = set()
    for _ in pairs:
        reached |= {g for g, m in pairs if m == name or m in reached}
    assert found == reached
