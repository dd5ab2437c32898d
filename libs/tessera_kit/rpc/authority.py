"""Who may do what: the port that every service asks, and its in-memory twin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import PermissionDenied
from tessera_kit.rpc.identity import Authenticator, InvalidCredentials, Principal

__all__ = ["AccessDenied", "Authority", "InMemoryAuthority", "access_denied", "privilege_name"]

_PRIVILEGE: Final = "PRIVILEGE_"
_TYPE: Final = "SECURABLE_TYPE_"


class AccessDenied(PermissionDenied):
    """A grant is missing; the message says which, on what."""

    reason = "ACCESS_DENIED"


class Authority(Authenticator, Protocol):
    """Tells whose token it is, and what that principal may do.

    Constraints: administrators pass every `require`; owners may do everything with what they own;
    `register` again with the same owner changes nothing; nor does `unregister` of what is unknown.
    """

    generation: int
    """Another number once answers that were given before may not hold any more."""

    async def require(
        self, principal: Principal, privilege: int, securable_type: int, name: str
    ) -> None:
        """Return when the principal holds the privilege on the object.

        Args:
            principal: Who asks.
            privilege: A `tessera.catalog.v1.Privilege`.
            securable_type: A `tessera.catalog.v1.SecurableType`.
            name: The object's full name; `metastore` for the root.

        Raises:
            AccessDenied: The principal does not hold it; the message says what is missing.
            Unavailable: It cannot be told now.
        """

    async def register(self, securable_type: int, name: str, owner: str) -> None:
        """Record an object that the calling service owns, so that grants can name it."""

    async def unregister(self, securable_type: int, name: str) -> None:
        """Remove such an object with its grants."""


def privilege_name(privilege: int) -> str:
    """Return a privilege's name for people, as `USE CATALOG`."""
    try:
        return securable_pb2.Privilege.Name(privilege).removeprefix(_PRIVILEGE).replace("_", " ")  # type: ignore[arg-type]
    except ValueError:
        return f"privilege {privilege}"


def access_denied(
    principal: Principal, privilege: int, securable_type: int, name: str, missing: str = ""
) -> AccessDenied:
    """Return the error that says which privilege the principal lacks."""
    try:
        kind = securable_pb2.SecurableType.Name(securable_type).removeprefix(_TYPE).lower()  # type: ignore[arg-type]
    except ValueError:
        kind = f"type {securable_type}"
    lacking = missing or f"{privilege_name(privilege)} on {kind} {name}"
    return AccessDenied(
        f"{principal.name} needs {lacking}",
        metadata={
            "principal": principal.name,
            "privilege": privilege_name(privilege),
            "securable_type": kind,
            "securable": name,
        },
    )


class InMemoryAuthority:
    """An authority that holds its principals, objects and grants in memory.

    Grants are on the object itself or on the metastore, from where every object inherits.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._principals: dict[str, Principal] = {}
        self._owners: dict[tuple[int, str], str] = {}
        self._grants: set[tuple[str, int, int, str]] = set()

    def add_principal(self, principal: Principal, token: str) -> None:
        """Let the token stand for the principal."""
        self._principals[token] = principal
        self.generation += 1

    def remove_token(self, token: str) -> None:
        """Let the token stand for nobody."""
        self._principals.pop(token, None)
        self.generation += 1

    def grant(
        self, grantee: str, privileges: Iterable[int], securable_type: int, name: str
    ) -> None:
        """Give a principal or group privileges on an object."""
        self._grants.update((grantee, one, securable_type, name) for one in privileges)
        self.generation += 1

    def revoke(
        self, grantee: str, privileges: Iterable[int], securable_type: int, name: str
    ) -> None:
        """Take privileges away; those that are not held are ignored."""
        self._grants.difference_update((grantee, one, securable_type, name) for one in privileges)
        self.generation += 1

    def owner_of(self, securable_type: int, name: str) -> str | None:
        """Return who registered the object; None when it is not known."""
        return self._owners.get((securable_type, name))

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of the token."""
        principal = self._principals.get(token)
        if principal is None:
            raise InvalidCredentials("the token is not valid")
        return principal

    async def require(
        self, principal: Principal, privilege: int, securable_type: int, name: str
    ) -> None:
        """Return when the principal holds the privilege on the object."""
        if principal.is_admin or self._holds(principal, privilege, securable_type, name):
            return
        raise access_denied(principal, privilege, securable_type, name)

    def _holds(self, principal: Principal, privilege: int, securable_type: int, name: str) -> bool:
        identities = {principal.name, *principal.groups}
        if self._owners.get((securable_type, name)) in identities:
            return True
        wanted = [privilege]
        if privilege != securable_pb2.PRIVILEGE_MANAGE:
            wanted.append(securable_pb2.PRIVILEGE_ALL_PRIVILEGES)
        places = [(securable_type, name), (securable_pb2.SECURABLE_TYPE_METASTORE, "metastore")]
        return any(
            (who, one, *place) in self._grants
            for who in identities
            for one in wanted
            for place in places
        )

    async def register(self, securable_type: int, name: str, owner: str) -> None:
        """Record an object."""
        self._owners[securable_type, name] = owner
        self.generation += 1

    async def unregister(self, securable_type: int, name: str) -> None:
        """Remove an object with its grants."""
        self._owners.pop((securable_type, name), None)
        self._grants = {grant for grant in self._grants if grant[2:] != (securable_type, name)}
        self.generation += 1
