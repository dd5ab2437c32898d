"""Decides who may do what: pure functions over an object's chain of owners and grants.

The rules (those of Unity Catalog, where they are public):

- Nothing is allowed unless something allows it. Administrators may do everything.
- A privilege is held on an object through a grant on it or on any ancestor, to the principal or to
  a group that it is in, nested groups included. ALL PRIVILEGES stands for every privilege but
  MANAGE, when it is checked.
- An owner holds every privilege on what it owns. Ownership is not inherited, but the owner of a
  container may manage (MANAGE) whatever lies in it.
- To use or manage what lies in a schema takes USE SCHEMA on the schema and USE CATALOG on the
  catalog as well, for owners and managers too; who owns a container passes it, and who manages by
  owning a container further up passes those below it.
- BROWSE shows that an object exists without any USE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.catalog.domain.privileges import CREATION, RELEVANT, Privilege
from services.catalog.domain.securables import SecurableKey, SecurableType

__all__ = [
    "AccessNode",
    "Decision",
    "EffectivePrivilege",
    "Subject",
    "decide",
    "effective",
    "visible",
]

_GATES = {
    SecurableType.SCHEMA: Privilege.USE_SCHEMA,
    SecurableType.CATALOG: Privilege.USE_CATALOG,
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks."""

    name: str
    groups: frozenset[str]
    """Groups that it is in, nested ones included."""
    is_admin: bool = False

    @property
    def identities(self) -> frozenset[str]:
        """Names that a grant or ownership may be held through."""
        return self.groups | {self.name}


@dataclass(frozen=True, slots=True)
class AccessNode:
    """What counts for decisions on one object."""

    key: SecurableKey
    owner: str
    grants: Mapping[str, frozenset[Privilege]]
    """Direct grants, by principal."""


Chain = Sequence[AccessNode]
"""An object and its ancestors up to the metastore."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one question; true when allowed."""

    missing: tuple[tuple[Privilege, SecurableKey], ...] = ()
    """What would have to be granted, and where."""

    def __bool__(self) -> bool:
        return not self.missing

    @property
    def text(self) -> str:
        """What is missing, in words; empty when allowed."""
        return ", ".join(f"{privilege.label} on {key}" for privilege, key in self.missing)


@dataclass(frozen=True, slots=True)
class EffectivePrivilege:
    """One privilege held, and why."""

    privilege: Privilege
    through: str
    """The principal or group that it is held through."""
    inherited_from: SecurableKey | None = None
    """The ancestor that it is granted on; None when direct or by ownership."""
    by_ownership: bool = False


def decide(subject: Subject, chain: Chain, privilege: Privilege) -> Decision:
    """Whether the subject may exercise the privilege on the chain's first object."""
    if subject.is_admin:
        return Decision()
    identities = subject.identities
    if privilege is Privilege.BROWSE:
        seen = visible(subject, chain)
        return Decision() if seen else Decision(((privilege, chain[0].key),))
    missing = list(_closed_gates(identities, chain, privilege))
    if not _holds(identities, chain, privilege):
        missing.append((privilege, chain[0].key))
    return Decision(tuple(missing))


def visible(subject: Subject, chain: Chain) -> bool:
    """Whether the subject may know that the chain's first object exists."""
    if subject.is_admin:
        return True
    identities = subject.identities
    if any(node.owner in identities for node in chain):
        return True
    if chain[0].key.type is SecurableType.METASTORE:
        return True
    held = _granted(identities, chain)
    if held & {Privilege.BROWSE, Privilege.ALL_PRIVILEGES}:
        return True
    return bool(held & RELEVANT[chain[0].key.type]) and not any(
        _closed_gates(identities, chain, Privilege.MANAGE)
    )


def effective(subject: Subject, chain: Chain) -> list[EffectivePrivilege]:
    """Every privilege held that means something on the chain's first object, with its origin.

    ALL PRIVILEGES is listed as itself and as each privilege that it stands for now. Administrators
    are listed as if they owned everything. USE on the parents is not looked at.
    """
    target = chain[0].key
    relevant = sorted(RELEVANT[target.type])
    if subject.is_admin:
        return [EffectivePrivilege(p, subject.name, by_ownership=True) for p in relevant]
    found: list[EffectivePrivilege] = []
    for depth, node in enumerate(chain):
        if node.owner in subject.identities:
            owned = relevant if depth == 0 else [Privilege.MANAGE]
            found += [EffectivePrivilege(p, node.owner, by_ownership=True) for p in owned]
        origin = None if depth == 0 else node.key
        for identity in sorted(subject.identities & node.grants.keys()):
            for privilege in sorted(_expanded(node.grants[identity])):
                if privilege in relevant:
                    found.append(EffectivePrivilege(privilege, identity, origin))
    return list(dict.fromkeys(found))


def _expanded(privileges: frozenset[Privilege]) -> frozenset[Privilege]:
    if Privilege.ALL_PRIVILEGES not in privileges:
        return privileges
    return privileges | (frozenset(Privilege) - {Privilege.MANAGE})


def _granted(identities: frozenset[str], chain: Chain) -> set[Privilege]:
    held: set[Privilege] = set()
    for node in chain:
        if node.grants:
            for identity in identities & node.grants.keys():
                held |= node.grants[identity]
    return held


def _holds(identities: frozenset[str], chain: Chain, privilege: Privilege) -> bool:
    if chain[0].owner in identities:
        return True
    held = _granted(identities, chain)
    if privilege is Privilege.MANAGE:
        return privilege in held or any(node.owner in identities for node in chain)
    return privilege in held or Privilege.ALL_PRIVILEGES in held


def _closed_gates(
    identities: frozenset[str], chain: Chain, privilege: Privilege
) -> Iterator[tuple[Privilege, SecurableKey]]:
    """The containers on the way that the identities may not pass, with what each needs."""
    first = 0 if privilege in CREATION else 1
    for depth in range(first, len(chain)):
        gate = _GATES.get(chain[depth].key.type)
        if gate is None:
            continue
        above = chain[depth:]
        if privilege is Privilege.MANAGE and any(node.owner in identities for node in above):
            continue
        if not _holds(identities, above, gate):
            yield gate, chain[depth].key
