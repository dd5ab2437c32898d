"""Principals, tokens, grants and decisions."""

from __future__ import annotations

from collections.abc import Sequence

from services.catalog.convert.numbers import number
from services.catalog.convert.securables import key_from_proto, key_to_proto, timestamp
from services.catalog.domain.access import EffectivePrivilege
from services.catalog.domain.principals import Grant, PrincipalKind, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.errors import InvalidGrant, of_field
from services.catalog.handlers.decisions import Question
from services.catalog.handlers.grants import GrantChange
from services.catalog.handlers.principals import PrincipalView
from tessera.catalog.v1 import authorization_service_pb2 as pb
from tessera_kit.rpc import identity

__all__ = [
    "caller_to_proto",
    "changes_from_proto",
    "effective_to_proto",
    "grant_to_proto",
    "kind_of",
    "principal_to_proto",
    "privilege_of",
    "questions_from_proto",
    "token_to_proto",
]


def kind_of(number: int) -> PrincipalKind:
    """A kind of principal that was checked at the door."""
    return PrincipalKind(number)


def privilege_of(number: int, field: str) -> Privilege:
    """A privilege from outside.

    Raises:
        InvalidGrant: It is not known.
    """
    try:
        return Privilege(number)
    except ValueError:
        raise of_field(InvalidGrant, field, "is not a known privilege") from None


def principal_to_proto(view: PrincipalView) -> pb.Principal:
    """A principal."""
    found = view.principal
    return pb.Principal(
        name=found.name,
        kind=number(found.kind),
        is_admin=found.is_admin,
        groups=sorted(view.groups),
        created_at=timestamp(found.created_at),
    )


def caller_to_proto(caller: identity.Principal) -> pb.Principal:
    """A call's identity."""
    service = caller.kind is identity.PrincipalKind.SERVICE
    return pb.Principal(
        name=caller.name,
        kind=pb.PRINCIPAL_KIND_SERVICE if service else pb.PRINCIPAL_KIND_USER,
        is_admin=caller.is_admin,
        groups=sorted(caller.groups),
    )


def token_to_proto(token: Token) -> pb.Token:
    """A token without its secret."""
    return pb.Token(
        token_id=token.token_id,
        principal=token.principal,
        comment=token.comment,
        created_at=timestamp(token.created_at),
        expires_at=None if token.expires_at is None else timestamp(token.expires_at),
        revoked=token.revoked,
    )


def grant_to_proto(grant: Grant) -> pb.Grant:
    """A direct grant."""
    return pb.Grant(
        principal=grant.principal,
        privilege=number(grant.privilege),
        granted_by=grant.granted_by,
        granted_at=timestamp(grant.granted_at),
    )


def changes_from_proto(grants: Sequence[pb.Grant], field: str) -> list[GrantChange]:
    """Privileges to grant or revoke."""
    return [
        GrantChange(grant.principal, privilege_of(grant.privilege, f"{field}[{index}].privilege"))
        for index, grant in enumerate(grants)
    ]


def effective_to_proto(held: EffectivePrivilege) -> pb.EffectivePrivilege:
    """A privilege in effect."""
    origin = held.inherited_from
    return pb.EffectivePrivilege(
        privilege=number(held.privilege),
        through=held.through,
        inherited_from=None if origin is None else key_to_proto(origin),
        by_ownership=held.by_ownership,
    )


def questions_from_proto(questions: Sequence[pb.AccessQuestion]) -> list[Question]:
    """Questions of a decision call."""
    return [
        Question(
            key_from_proto(question.securable, f"questions[{index}].securable"),
            privilege_of(question.privilege, f"questions[{index}].privilege"),
        )
        for index, question in enumerate(questions)
    ]
