"""Principals, tokens and grants; lineage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import grpc

from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import (
    authorization_service_pb2_grpc,
    lineage_service_pb2_grpc,
    securable_pb2,
)
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.client.aio.calls import call


class AsyncAccess:
    """Who may do what."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)

    async def who_am_i(self) -> auth.Principal:
        """The principal that the client's token stands for."""
        return (await call(self._stub.WhoAmI, auth.WhoAmIRequest())).principal

    async def create_principal(
        self,
        name: str,
        kind: auth.PrincipalKind.ValueType = auth.PRINCIPAL_KIND_USER,
        *,
        is_admin: bool = False,
    ) -> auth.Principal:
        """Creates a user, group or service principal. For administrators."""
        principal = auth.Principal(name=name, kind=kind, is_admin=is_admin)
        return (
            await call(self._stub.CreatePrincipal, auth.CreatePrincipalRequest(principal=principal))
        ).principal

    async def delete_principal(self, name: str) -> None:
        """Deletes a principal with its tokens and grants. For administrators."""
        await call(self._stub.DeletePrincipal, auth.DeletePrincipalRequest(name=name))

    async def list_principals(self) -> list[auth.Principal]:
        """All principals, by name."""
        found: list[auth.Principal] = []
        request = auth.ListPrincipalsRequest(page_size=1000)
        while True:
            page = await call(self._stub.ListPrincipals, request)
            found.extend(page.principals)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def update_group(
        self, group: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> list[str]:
        """Adds and removes members of a group; returns its direct members."""
        request = auth.UpdateGroupMembersRequest(group=group, add=add, remove=remove)
        return list((await call(self._stub.UpdateGroupMembers, request)).members)

    async def create_token(
        self, principal: str = "", *, comment: str = "", lifetime: timedelta | None = None
    ) -> auth.CreateTokenResponse:
        """Makes a token, for the caller by default; the answer holds the secret, this once."""
        request = auth.CreateTokenRequest(principal=principal, comment=comment)
        if lifetime is not None:
            request.lifetime.FromTimedelta(lifetime)
        return await call(self._stub.CreateToken, request)

    async def list_tokens(self, principal: str = "") -> list[auth.Token]:
        """The tokens of a principal, the caller by default, the newest first; without secrets."""
        found: list[auth.Token] = []
        request = auth.ListTokensRequest(principal=principal, page_size=1000)
        while True:
            page = await call(self._stub.ListTokens, request)
            found.extend(page.tokens)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def revoke_token(self, token_id: str) -> None:
        """Makes a token useless at once."""
        await call(self._stub.RevokeToken, auth.RevokeTokenRequest(token_id=token_id))

    async def grant(
        self,
        principal: str,
        privileges: Sequence[securable_pb2.Privilege.ValueType],
        type: securable_pb2.SecurableType.ValueType,
        full_name: str = "metastore",
    ) -> None:
        """Grants privileges on a governed object."""
        await self._update(
            type, full_name, add=[auth.Grant(principal=principal, privilege=p) for p in privileges]
        )

    async def revoke(
        self,
        principal: str,
        privileges: Sequence[securable_pb2.Privilege.ValueType],
        type: securable_pb2.SecurableType.ValueType,
        full_name: str = "metastore",
    ) -> None:
        """Revokes privileges on a governed object; one that is not held is ignored."""
        await self._update(
            type,
            full_name,
            remove=[auth.Grant(principal=principal, privilege=p) for p in privileges],
        )

    async def _update(
        self,
        type: securable_pb2.SecurableType.ValueType,
        full_name: str,
        add: Sequence[auth.Grant] = (),
        remove: Sequence[auth.Grant] = (),
    ) -> None:
        securable = securable_pb2.SecurableReference(type=type, full_name=full_name)
        await call(
            self._stub.UpdateGrants,
            auth.UpdateGrantsRequest(securable=securable, add=add, remove=remove),
        )

    async def grants(
        self, type: securable_pb2.SecurableType.ValueType, full_name: str = "metastore"
    ) -> list[auth.Grant]:
        """The privileges granted directly on an object."""
        found: list[auth.Grant] = []
        securable = securable_pb2.SecurableReference(type=type, full_name=full_name)
        request = auth.ListGrantsRequest(securable=securable, page_size=1000)
        while True:
            page = await call(self._stub.ListGrants, request)
            found.extend(page.grants)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def effective_permissions(
        self, type: securable_pb2.SecurableType.ValueType, full_name: str, principal: str = ""
    ) -> list[auth.EffectivePrivilege]:
        """What a principal, the caller when empty, may do with an object, and why."""
        securable = securable_pb2.SecurableReference(type=type, full_name=full_name)
        request = auth.GetEffectivePermissionsRequest(securable=securable, principal=principal)
        return list((await call(self._stub.GetEffectivePermissions, request)).privileges)


class AsyncLineage:
    """Where things come from and what depends on them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = lineage_service_pb2_grpc.LineageServiceStub(channel)

    async def get(
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
        request = lineage.GetLineageRequest(
            node=lineage.LineageNode(type=type, name=name),
            direction=direction,
            max_depth=max_depth,
        )
        return list((await call(self._stub.GetLineage, request)).edges)
