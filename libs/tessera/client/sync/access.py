"""Principals, tokens and grants; lineage."""

# Made from tessera.client.aio.access by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.catalog.v1 import (
    securable_pb2,
)
from tessera.client.aio.access import AsyncAccess, AsyncLineage
from tessera.client.portal import Portal


class Access:
    """Who may do what."""

    def __init__(self, portal: Portal, wrapped: AsyncAccess) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def who_am_i(self) -> auth.Principal:
        """The principal that the client's token stands for."""
        return self._portal.run(self._wrapped.who_am_i())

    def create_principal(
        self,
        name: str,
        kind: auth.PrincipalKind.ValueType = auth.PRINCIPAL_KIND_USER,
        *,
        is_admin: bool = False,
    ) -> auth.Principal:
        """Creates a user, group or service principal. For administrators."""
        return self._portal.run(self._wrapped.create_principal(name, kind, is_admin=is_admin))

    def delete_principal(self, name: str) -> None:
        """Deletes a principal with its tokens and grants. For administrators."""
        return self._portal.run(self._wrapped.delete_principal(name))

    def list_principals(self) -> list[auth.Principal]:
        """All principals, by name."""
        return self._portal.run(self._wrapped.list_principals())

    def update_group(
        self, group: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> list[str]:
        """Adds and removes members of a group; returns its direct members."""
        return self._portal.run(self._wrapped.update_group(group, add=add, remove=remove))

    def create_token(
        self, principal: str = "", *, comment: str = "", lifetime: timedelta | None = None
    ) -> auth.CreateTokenResponse:
        """Makes a token, for the caller by default; the answer holds the secret, this once."""
        return self._portal.run(
            self._wrapped.create_token(principal, comment=comment, lifetime=lifetime)
        )

    def list_tokens(self, principal: str = "") -> list[auth.Token]:
        """The tokens of a principal, the caller by default, the newest first; without secrets."""
        return self._portal.run(self._wrapped.list_tokens(principal))

    def revoke_token(self, token_id: str) -> None:
        """Makes a token useless at once."""
        return self._portal.run(self._wrapped.revoke_token(token_id))

    def grant(
        self,
        principal: str,
        privileges: Sequence[securable_pb2.Privilege.ValueType],
        type: securable_pb2.SecurableType.ValueType,
        full_name: str = "metastore",
    ) -> None:
        """Grants privileges on a governed object."""
        return self._portal.run(self._wrapped.grant(principal, privileges, type, full_name))

    def revoke(
        self,
        principal: str,
        privileges: Sequence[securable_pb2.Privilege.ValueType],
        type: securable_pb2.SecurableType.ValueType,
        full_name: str = "metastore",
    ) -> None:
        """Revokes privileges on a governed object; one that is not held is ignored."""
        return self._portal.run(self._wrapped.revoke(principal, privileges, type, full_name))

    def grants(
        self, type: securable_pb2.SecurableType.ValueType, full_name: str = "metastore"
    ) -> list[auth.Grant]:
        """The privileges granted directly on an object."""
        return self._portal.run(self._wrapped.grants(type, full_name))

    def effective_permissions(
        self, type: securable_pb2.SecurableType.ValueType, full_name: str, principal: str = ""
    ) -> list[auth.EffectivePrivilege]:
        """What a principal, the caller when empty, may do with an object, and why."""
        return self._portal.run(self._wrapped.effective_permissions(type, full_name, principal))


class Lineage:
    """Where things come from and what depends on them."""

    def __init__(self, portal: Portal, wrapped: AsyncLineage) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def get(
        self,
        type: lineage.LineageNodeType.ValueType,
        name: str,
        *,
        direction: lineage.LineageDirection.ValueType = lineage.LINEAGE_DIRECTION_BOTH,
        max_depth: int = 0,
    ) -> list[lineage.LineageEdge]:
        """The edges around a node, nearest first, at most 1,000.

        Args:
            type: The node's kind.
            name: Its name: a full name, an id, or "catalog.schema.model/3" for a version.
            direction: Upstream (what it was made from), downstream, or both.
            max_depth: How many steps to walk; 10 when 0.
        """
        return self._portal.run(
            self._wrapped.get(type, name, direction=direction, max_depth=max_depth)
        )
