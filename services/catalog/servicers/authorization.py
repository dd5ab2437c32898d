"""`tessera.catalog.v1.AuthorizationService`: who may do what."""

from __future__ import annotations

from typing import Any

from services.catalog.convert.access import (
    caller_to_proto,
    changes_from_proto,
    effective_to_proto,
    grant_to_proto,
    kind_of,
    principal_to_proto,
    questions_from_proto,
    token_to_proto,
)
from services.catalog.convert.requests import page_token, place_of, request_key, text_of
from services.catalog.convert.securables import key_from_proto, timestamp
from services.catalog.handlers.decisions import Decisions
from services.catalog.handlers.grants import Grants
from services.catalog.handlers.guard import require_platform
from services.catalog.handlers.principals import Principals
from services.catalog.handlers.tokens import Tokens
from tessera.catalog.v1 import authorization_service_pb2 as pb
from tessera.catalog.v1 import authorization_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal
from tessera_kit.rpc.pages import page_size

__all__ = ["AuthorizationServicer"]


class AuthorizationServicer(rpc.AuthorizationServiceServicer):
    """Translates; the use cases are in `handlers`."""

    def __init__(
        self, principals: Principals, tokens: Tokens, grants: Grants, decisions: Decisions
    ) -> None:
        self._principals = principals
        self._tokens = tokens
        self._grants = grants
        self._decisions = decisions

    async def CreatePrincipal(
        self, request: pb.CreatePrincipalRequest, context: Any
    ) -> pb.CreatePrincipalResponse:
        """Create a principal."""
        asked = request.principal
        view = await self._principals.create(
            current_principal(),
            asked.name,
            kind_of(asked.kind),
            asked.is_admin,
            request_key(request),
        )
        return pb.CreatePrincipalResponse(principal=principal_to_proto(view))

    async def GetPrincipal(
        self, request: pb.GetPrincipalRequest, context: Any
    ) -> pb.GetPrincipalResponse:
        """Read a principal."""
        view = await self._principals.get(request.name)
        return pb.GetPrincipalResponse(principal=principal_to_proto(view))

    async def ListPrincipals(
        self, request: pb.ListPrincipalsRequest, context: Any
    ) -> pb.ListPrincipalsResponse:
        """List principals."""
        after = text_of(place_of(request.page_token, "principals"))
        page = await self._principals.page(after, page_size(request.page_size))
        last = page.last
        return pb.ListPrincipalsResponse(
            principals=[principal_to_proto(view) for view in page.items],
            next_page_token="" if last is None else page_token("principals", last.principal.name),
        )

    async def DeletePrincipal(
        self, request: pb.DeletePrincipalRequest, context: Any
    ) -> pb.DeletePrincipalResponse:
        """Delete a principal."""
        await self._principals.delete(current_principal(), request.name)
        return pb.DeletePrincipalResponse()

    async def UpdateGroupMembers(
        self, request: pb.UpdateGroupMembersRequest, context: Any
    ) -> pb.UpdateGroupMembersResponse:
        """Change a group's members."""
        members = await self._principals.update_members(
            current_principal(), request.group, list(request.add), list(request.remove)
        )
        return pb.UpdateGroupMembersResponse(members=members)

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Any
    ) -> pb.CreateTokenResponse:
        """Make a token."""
        lifetime = request.lifetime.ToTimedelta() if request.HasField("lifetime") else None
        new = await self._tokens.create(
            current_principal(), request.principal, request.comment, lifetime
        )
        return pb.CreateTokenResponse(token=token_to_proto(new.token), secret=new.secret.reveal())

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Any
    ) -> pb.ListTokensResponse:
        """List tokens."""
        caller = current_principal()
        scope = f"tokens/{request.principal or caller.name}"
        below = text_of(place_of(request.page_token, scope)) or None
        page = await self._tokens.page(
            caller, request.principal, below, page_size(request.page_size)
        )
        last = page.last
        return pb.ListTokensResponse(
            tokens=[token_to_proto(token) for token in page.items],
            next_page_token="" if last is None else page_token(scope, last.token_id),
        )

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, context: Any
    ) -> pb.RevokeTokenResponse:
        """Make a token useless."""
        await self._tokens.revoke(current_principal(), request.token_id)
        return pb.RevokeTokenResponse()

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        """Tell who the caller is."""
        view = await self._principals.get(current_principal().name)
        return pb.WhoAmIResponse(principal=principal_to_proto(view))

    async def UpdateGrants(
        self, request: pb.UpdateGrantsRequest, context: Any
    ) -> pb.UpdateGrantsResponse:
        """Change the grants on an object."""
        grants = await self._grants.update(
            current_principal(),
            key_from_proto(request.securable, "securable"),
            changes_from_proto(request.add, "add"),
            changes_from_proto(request.remove, "remove"),
        )
        return pb.UpdateGrantsResponse(grants=[grant_to_proto(grant) for grant in grants])

    async def ListGrants(
        self, request: pb.ListGrantsRequest, context: Any
    ) -> pb.ListGrantsResponse:
        """List the grants on an object."""
        key = key_from_proto(request.securable, "securable")
        scope = f"grants/{key}/{request.principal}"
        place = place_of(request.page_token, scope)
        after = (text_of(place), int(place[1]) if place else 0)
        page = await self._grants.page(
            current_principal(), key, request.principal, after, page_size(request.page_size)
        )
        last = page.last
        token = "" if last is None else page_token(scope, last.principal, int(last.privilege))
        return pb.ListGrantsResponse(
            grants=[grant_to_proto(grant) for grant in page.items], next_page_token=token
        )

    async def GetEffectivePermissions(
        self, request: pb.GetEffectivePermissionsRequest, context: Any
    ) -> pb.GetEffectivePermissionsResponse:
        """List what a principal may do."""
        key = key_from_proto(request.securable, "securable")
        held = await self._grants.effective(current_principal(), key, request.principal)
        return pb.GetEffectivePermissionsResponse(
            privileges=[effective_to_proto(one) for one in held]
        )

    async def Authenticate(
        self, request: pb.AuthenticateRequest, context: Any
    ) -> pb.AuthenticateResponse:
        """Tell which principal a token belongs to."""
        require_platform(current_principal())
        known = await self._tokens.known(request.token_sha256)
        return pb.AuthenticateResponse(
            principal=caller_to_proto(known.principal),
            expires_at=None if known.expires_at is None else timestamp(known.expires_at),
        )

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        """Answer questions about a principal."""
        answers = await self._decisions.decide(
            current_principal(), request.principal, questions_from_proto(request.questions)
        )
        return pb.DecideResponse(
            answers=[
                pb.AccessAnswer(allowed=answer.allowed, missing=answer.missing)
                for answer in answers
            ]
        )

    async def GetAccessRevision(
        self, request: pb.GetAccessRevisionRequest, context: Any
    ) -> pb.GetAccessRevisionResponse:
        """Tell which state of everybody's rights decisions are made by."""
        revision = await self._decisions.revision(current_principal())
        return pb.GetAccessRevisionResponse(revision=revision)

    async def RegisterSecurable(
        self, request: pb.RegisterSecurableRequest, context: Any
    ) -> pb.RegisterSecurableResponse:
        """Record an object of another service."""
        key = key_from_proto(request.securable, "securable")
        await self._decisions.register(current_principal(), key, request.owner, request.comment)
        return pb.RegisterSecurableResponse()

    async def UnregisterSecurable(
        self, request: pb.UnregisterSecurableRequest, context: Any
    ) -> pb.UnregisterSecurableResponse:
        """Remove an object of another service."""
        key = key_from_proto(request.securable, "securable")
        await self._decisions.unregister(current_principal(), key)
        return pb.UnregisterSecurableResponse()
