"""Tokens: made, listed, revoked, and told apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from services.catalog.convert import events
from services.catalog.domain.principals import (
    PrincipalKind,
    Token,
    new_token_secret,
    token_digest,
)
from services.catalog.errors import InvalidPrincipal, NotAllowed, TokenNotFound, of_field
from services.catalog.handlers.access_cache import AccessCache, KnownToken
from services.catalog.handlers.context import Context, Page
from services.catalog.handlers.principals import principal_not_found
from tessera_kit.config import Secret
from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.identity import InvalidCredentials, Principal

__all__ = ["NewToken", "Tokens"]

_DEFAULT_LIFETIME = timedelta(days=90)
_LONGEST_LIFETIME = timedelta(days=730)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token and its text, which is told once."""

    token: Token
    secret: Secret


class Tokens:
    """Use cases of tokens; also the `Authenticator` of this service's own doors."""

    def __init__(self, context: Context, cache: AccessCache) -> None:
        self._context = context
        self._cache = cache

    async def create(
        self, caller: Principal, principal: str, comment: str, lifetime: timedelta | None
    ) -> NewToken:
        """Make a token for the caller or, for administrators and services, for another.

        Raises:
            NotAllowed: It is for another and the caller may not.
            PrincipalNotFound, InvalidPrincipal: There is no such user or program.
            InvalidArgument: The lifetime is not positive or too long.
        """
        name = self._whose(caller, principal)
        kept = _DEFAULT_LIFETIME if lifetime is None else lifetime
        if not timedelta() < kept <= _LONGEST_LIFETIME:
            text = f"must be positive and at most {_LONGEST_LIFETIME.days} days"
            raise of_field(InvalidArgument, "lifetime", text)
        token_id, secret = new_token_secret()
        async with self._context.store.write() as tx:
            owner = await tx.access.principal(name)
            if owner is None:
                raise principal_not_found(name)
            if owner.kind is PrincipalKind.GROUP:
                raise of_field(
                    InvalidPrincipal, "principal", "is a group; tokens are for its members"
                )
            now = self._context.clock.now()
            token = Token(
                token_id=token_id,
                principal=name,
                sha256=token_digest(secret.reveal()),
                comment=comment,
                created_at=now,
                expires_at=now + kept,
            )
            await tx.access.put_token(token)
            await tx.commit()
        return NewToken(token, secret)

    async def page(
        self, caller: Principal, principal: str, below: str | None, size: int
    ) -> Page[Token]:
        """A principal's tokens, the newest first.

        Raises:
            NotAllowed: They are another's and the caller is no administrator.
        """
        name = self._whose(caller, principal)
        async with self._context.store.read() as tx:
            found = await tx.access.tokens(name, below=below, limit=size + 1)
        items = tuple(found[:size])
        return Page(items, items[-1] if len(found) > size else None)

    async def revoke(self, caller: Principal, token_id: str) -> None:
        """Make a token useless; one that is so already stays so.

        Raises:
            TokenNotFound: There is none of that id, or it is another's.
        """
        async with self._context.store.write() as tx:
            token = await tx.access.token(token_id)
            if token is None or not (caller.is_admin or token.principal == caller.name):
                raise TokenNotFound("there is no such token, or it is not yours")
            if not token.revoked:
                await tx.access.put_token(replace(token, revoked=True))
                tx.publish(events.access_changed(token.principal))
                await tx.commit()

    async def known(self, sha256: bytes) -> KnownToken:
        """Whose token it is, by its digest.

        Raises:
            InvalidCredentials: It is unknown, expired or revoked.
        """
        found = await self._cache.token(sha256)
        if found is None or (
            found.expires_at is not None and found.expires_at <= self._context.clock.now()
        ):
            raise InvalidCredentials("the token is unknown, expired or revoked")
        return found

    async def authenticate(self, token: str) -> Principal:
        """Whose token it is.

        Raises:
            InvalidCredentials: It is unknown, expired or revoked.
        """
        return (await self.known(token_digest(token))).principal

    def _whose(self, caller: Principal, principal: str) -> str:
        if not principal or principal == caller.name:
            return caller.name
        if not caller.is_admin:
            raise NotAllowed("only administrators and services may do this for others")
        return principal
